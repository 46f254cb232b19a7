"""8-bit Adam by bitsandbytes itself, which computes on a CPU too (extra "8bit")."""

from __future__ import annotations

import pytest
import torch

from erasekit.concepts import Erasure
from erasekit.testing import tiny_model
from erasekit.training.checkpoint import load_optimizer_tensors, optimizer_tensors
from erasekit.training.erase import erase
from erasekit.training.plan import TrainingSettings
from erasekit.training.trainer import make_optimizer

pytest.importorskip("bitsandbytes")

SETTINGS = TrainingSettings(optimizer="adam8bit", learning_rate=1e-2)


def trained(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter - 1).square().sum().backward()
        optimizer.step()


def started() -> torch.nn.Parameter:
    """Large enough for its moments to be kept in 8 bits."""
    generator = torch.Generator().manual_seed(0)
    return torch.nn.Parameter(torch.randn(128, 64, generator=generator))


def test_a_resumed_optimiser_goes_on_as_if_it_had_not_stopped() -> None:
    whole, first = started(), started()
    trained(whole, make_optimizer({"w": whole}, SETTINGS), 5)
    optimizer = make_optimizer({"w": first}, SETTINGS)
    trained(first, optimizer, 2)
    kept = optimizer_tensors(optimizer, {"w": first})
    assert kept["w|state1"].dtype == kept["w|state2"].dtype == torch.uint8
    second = torch.nn.Parameter(first.detach().clone())
    again = make_optimizer({"w": second}, SETTINGS)
    load_optimizer_tensors(again, {"w": second}, {k: v.clone() for k, v in kept.items()})
    assert isinstance(again.state[second]["step"], int)
    trained(second, again, 3)
    assert torch.equal(second, whole)


def test_its_moments_take_a_quarter() -> None:
    states = {}
    for name in ("adam", "adam8bit"):
        parameter = started()
        settings = TrainingSettings(optimizer=name, learning_rate=1e-2)
        optimizer = make_optimizer({"w": parameter}, settings)
        trained(parameter, optimizer, 1)
        kept = optimizer_tensors(optimizer, {"w": parameter})
        states[name] = sum(value.nbytes for value in kept.values() if value.numel() > 256)
    assert states["adam8bit"] == states["adam"] / 4


def test_an_erasure_is_near_that_of_adam() -> None:
    def edit(optimizer: str) -> torch.Tensor:
        settings = {"optimizer": optimizer, "learning_rate": 1e-3}
        tensors = erase(tiny_model(), Erasure.of("church"), "gumbel", settings=settings).tensors
        return torch.cat([tensors[name].flatten() for name in sorted(tensors)])

    base = {name: p.detach() for name, p in tiny_model().unet.named_parameters()}
    eight, full = edit("adam8bit"), edit("adam")
    start = torch.cat([base[n].flatten() for n in sorted(base) if "attn2" in n])
    assert (eight - full).norm() / (full - start).norm() < 0.2

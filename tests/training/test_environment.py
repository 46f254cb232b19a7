"""Precision, parts, checkpointing and optimisers change how an edit is made, not which."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.errors import ConfigError, MissingExtraError, TrainingError
from erasekit.models.loading import LoadedModel, choose_device
from erasekit.testing import assert_same_tensors, tiny_model, weights
from erasekit.training.erase import erase
from erasekit.training.plan import TrainingSettings
from erasekit.training.trainer import make_optimizer

TOLERANCE = 1e-3
"""Of parts and checkpointing: largest distance between two edits by how far the weights moved."""
HALF_TOLERANCE = {"bf16": 0.5, "fp16": 0.15}
"""Of six steps of Adam, whose first ones follow the gradient's sign."""


def edit(method: str, model: LoadedModel | None = None, **settings: Any) -> dict[str, Tensor]:
    erasure = Erasure.of("garbage truck", "church")
    return erase(model or tiny_model(), erasure, method, settings=settings).tensors


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    base = {name: p.detach() for name, p in tiny_model().unet.named_parameters()}
    apart = torch.cat([(found[n] - v).flatten() for n, v in expected.items()]).norm()
    moved = torch.cat([(base[n] - v).flatten() for n, v in expected.items()]).norm()
    return float(apart / moved)


@pytest.mark.parametrize(
    ("method", "own"),
    [("gumbel", {"exact_gradient": True}), ("gumbel", {"hard": False}), ("pgd", {}), ("l2", {})],
)
def test_parts_and_checkpointing_give_the_same_edit(method: str, own: dict[str, Any]) -> None:
    """`exact_gradient` differentiates a pass of the frozen weights after they were swapped out."""
    plain = edit(method, **own)
    for ways in (
        {"gradient_checkpointing": True},
        {"accumulate": 3},
        {"accumulate": 2, "gradient_checkpointing": True},
    ):
        assert distance(edit(method, **own, **ways), plain) < TOLERANCE, ways


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_keeps_fp32_masters_and_gives_nearly_the_edit(precision: str) -> None:
    model = tiny_model()
    before = weights(model)
    found = edit("gumbel", model, precision=precision, accumulate=2)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert 0 < distance(found, edit("gumbel")) < HALF_TOLERANCE[precision]
    assert_same_tensors(weights(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_stored_in_half_precision_is_trained_in_fp32_and_left_as_it_was(
    dtype: torch.dtype,
) -> None:
    model = tiny_model()
    model.pipeline.to(dtype)
    before = weights(model)
    found = edit("gumbel", model, gradient_checkpointing=True, learning_rate=1e-6)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert_same_tensors(weights(model), before)
    assert {p.dtype for p in model.unet.parameters()} == {dtype}
    moved = [(found[n] - before[f"unet.{n}"].float()).abs().max() for n in found]
    assert 0 < max(moved) < 1e-5  # steps far below the precision it is stored in


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    with pytest.raises(ConfigError, match="no 'cuda' device here; use --device cpu"):
        choose_device("cuda")
    with pytest.raises(ConfigError, match="Unknown device 'gpu'; use auto, cpu, cuda, mps"):
        choose_device("gpu")


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="There are 2 GPUs, so no number 2"):
        choose_device()


def test_eight_bit_adam_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingExtraError, match=r"erasekit\[8bit\]"):
        edit("none", optimizer="adam8bit")


def test_adam_is_fused_on_the_cpu_and_takes_the_steps_of_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 32, generator=generator)
    settings = TrainingSettings(learning_rate=1e-2)
    ours, plain = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = make_optimizer({"w": ours}, settings)
    reference = torch.optim.Adam([plain], lr=1e-2, fused=False, foreach=False)
    for _ in range(20):
        for parameter, its in ((ours, optimizer), (plain, reference)):
            its.zero_grad()
            (parameter - 1).pow(4).sum().backward()
            its.step()
    assert optimizer.defaults["fused"]
    torch.testing.assert_close(ours, plain)
    assert float((ours - start).abs().min().detach()) > 0


def test_a_method_that_trains_nothing_has_an_optimizer() -> None:
    optimizer = make_optimizer({}, TrainingSettings())
    optimizer.step()
    assert optimizer.state == {}


def test_offload_is_allowed_where_there_is_nothing_to_gain() -> None:
    assert_same_tensors(edit("none", offload=True), edit("none"))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's own
def test_a_compiled_unet_gives_the_same_edit_and_is_plain_again_afterwards() -> None:
    """Compiled by dynamo alone: its graphs must follow the weights that are swapped in and out."""
    model = tiny_model()
    found = edit("gumbel", model, steps=2, compile_unet="eager")
    assert model.unet._compiled_call_impl is None
    assert distance(found, edit("gumbel", steps=2)) < TOLERANCE


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_are_switched_on_within(off: Any) -> None:
    expected, model = edit("none"), tiny_model()
    with off():
        found = edit("none", model)
        assert not torch.is_grad_enabled()
    assert_same_tensors(found, expected)


def test_a_model_that_can_t_be_trained_is_refused() -> None:
    with torch.inference_mode():
        model = tiny_model()
    with pytest.raises(ConfigError, match="inference_mode"):
        edit("none", model)


def test_a_backend_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"compile_unet='foo' is no backend.*inductor"):
        edit("none", compile_unet="foo")


def test_too_little_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an allocation that no machine has room for, in the middle of a step."""
    from erasekit.methods.preservation.controls import NoPreservation

    def huge(self: Any, noise_pred: Any, keep: Any) -> Tensor:
        return torch.zeros(1 << 58)

    monkeypatch.setattr(NoPreservation, "loss", huge)
    with pytest.raises(TrainingError, match=r"too little memory.*--max-memory.*batch_size"):
        edit("none")

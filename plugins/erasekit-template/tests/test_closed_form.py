"""The closed form: all that erasekit asks of a method, and the equations themselves."""

from __future__ import annotations

import pytest
import torch

from erasekit.concepts import Erasure
from erasekit.errors import ScopeError
from erasekit.plugin.registry import Registry
from erasekit.testing import MethodTester, tiny_model
from erasekit.training.erase import erase
from erasekit_template.closed_form import ClosedFormConfig, solve


class TestClosedForm(MethodTester):
    """Every test of `MethodTester`."""

    method = "template-closed-form"
    scopes = ("xattn-kv", "xattn")
    seeded = False


def embeddings(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(seed))


def test_the_solution_is_that_of_the_stacked_least_squares_problem() -> None:
    erased, target, kept = embeddings(2, 0), embeddings(2, 1), embeddings(7, 2)
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    config = ClosedFormConfig(keep_weight=0.3, ridge=0.2)
    rows = torch.cat([erased.flatten(0, 1), 0.3**0.5 * kept.flatten(0, 1), 0.2**0.5 * torch.eye(8)])
    wanted = torch.cat(
        [target.flatten(0, 1), 0.3**0.5 * kept.flatten(0, 1), 0.2**0.5 * torch.eye(8)]
    )
    reference = torch.linalg.lstsq(rows.double(), (wanted @ weight.T).double()).solution.T
    assert torch.allclose(
        solve(weight, erased, target, kept, config).double(), reference, atol=1e-5
    )


def test_keeping_more_moves_the_kept_less() -> None:
    erased, target, kept = embeddings(1, 0), embeddings(1, 1), embeddings(3, 2)
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    moved = []
    for keep_weight in (0.0, 1.0, 100.0):
        config = ClosedFormConfig(keep_weight=keep_weight, ridge=1e-3)
        solved = solve(weight, erased, target, kept, config)
        moved.append(float((kept @ (solved - weight).T).norm()))
    assert moved == sorted(moved, reverse=True)


def test_the_erased_prompt_is_read_nearly_like_the_neutral_one() -> None:
    model = tiny_model()
    edit = erase(
        model,
        Erasure.of("church"),
        "template-closed-form",
        registry=Registry(),
        settings={"keep_weight": 0.0, "ridge": 1e-6},
    )
    church, empty = model.family.embed_prompts(["church"]), model.family.embed_prompts([""])
    parameters = dict(model.unet.named_parameters())
    for name, tensor in edit.tensors.items():
        before = (church @ parameters[name].T - empty @ parameters[name].T).norm()
        after = (church @ tensor.T - empty @ parameters[name].T).norm()
        assert after < 0.05 * before


def test_a_scope_without_keys_and_values_is_one_sentence() -> None:
    with pytest.raises(ScopeError, match="use --scope xattn-kv"):
        erase(tiny_model(), "church", "template-closed-form", settings={"scope": "selfattn"})

"""RECE: all that erasekit asks of a method, and its two equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.edits import Edit
from erasekit.plugin.registry import Registry
from erasekit.testing import MethodTester, tiny_model
from erasekit.training.erase import erase
from erasekit_rece import hooks
from erasekit_rece.rece import adversarial_embeds


class TestRece(MethodTester):
    """Every test of `MethodTester`."""

    method = "rece"
    plugins = (hooks,)
    scopes = ("xattn-kv", "xattn")
    seeded = False


def registry() -> Registry:
    return TestRece().registry()


def edited(*erased: str, **settings: Any) -> Edit:
    return erase(tiny_model(), Erasure.of(*erased), "rece", registry=registry(), settings=settings)


def rows(count: int, seed: int, width: int = 8) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def lstsq_embeds(originals: Any, new: Any, erased: Any, regularisation: float) -> np.ndarray:
    """W'_i c' = W_i c for all i and sqrt(regularisation) c' = 0, stacked; by numpy's lstsq."""
    width = erased.shape[1]
    left = np.concatenate([*new, regularisation**0.5 * np.eye(width)])
    right = np.concatenate([w @ erased.T for w in originals] + [np.zeros((width, len(erased)))])
    solution: np.ndarray = np.linalg.lstsq(left, right, rcond=None)[0].T
    return solution


def test_adversarial_embeds_are_those_of_the_stacked_least_squares_problem() -> None:
    originals = [rows(6, 0), rows(3, 1), rows(4, 2)]
    new = [w + 0.3 * rows(len(w), 9 + i) for i, w in enumerate(originals)]
    erased = rows(2, 5)
    found = adversarial_embeds(originals, new, erased, 0.05).numpy()
    arrays = [[w.double().numpy() for w in group] for group in (originals, new)]
    reference = lstsq_embeds(*arrays, erased.double().numpy(), 0.05)
    assert np.abs(found - reference).max() <= 1e-5 * np.abs(reference).max()


def test_projections_that_did_not_change_are_fooled_by_the_concept_itself() -> None:
    originals, erased = [rows(6, 0), rows(7, 1)], rows(2, 5)
    found = adversarial_embeds(originals, originals, erased, 1e-12)
    assert torch.allclose(found, erased.double(), atol=1e-6)


def test_regularisation_shortens_adversarial_embeds() -> None:
    originals, new, erased = [rows(6, 0)], [rows(6, 1)], rows(1, 5)
    norms = [float(adversarial_embeds(originals, new, erased, r).norm()) for r in (1e-3, 1, 1e9)]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 1e-6


def independent(epochs: int) -> dict[str, np.ndarray]:
    """RECE of "garbage truck" and "church", keeping the empty prompt and "bus", in numpy."""
    model = tiny_model()
    weights = {
        name: p.numpy().astype(np.float64)
        for name, p in model.unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }

    def embed(prompt: str, place: int) -> np.ndarray:
        hidden = model.pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
        row: np.ndarray = hidden[0, place].numpy().astype(np.float64)
        return row

    def edit(keys: np.ndarray) -> None:
        """Stacked: W' k = W guide, 0.1 W' c = 0.1 W c, 0.2 W' = 0.2 W (all times a root)."""
        for name, w in weights.items():
            left = np.concatenate([keys, 0.1**0.5 * kept, 0.2**0.5 * np.eye(w.shape[1])])
            wanted = np.concatenate([guides, 0.1**0.5 * kept, 0.2**0.5 * np.eye(w.shape[1])])
            weights[name] = np.linalg.lstsq(left, wanted @ w.T, rcond=None)[0].T

    erased = np.stack([embed("garbage truck", 2), embed("church", 1)])
    guides = np.stack([embed("", 0)] * 2)
    kept = np.stack([embed("", 0), embed("bus", 1)])
    originals = list(weights.values())
    edit(erased)
    for _ in range(epochs):
        edit(lstsq_embeds(originals, list(weights.values()), erased, 0.01))
    return weights


def test_the_edit_is_that_of_the_epochs_one_after_another() -> None:
    for epochs in (0, 3):
        edit = edited(
            "garbage truck", "church", keep="bus", epochs=epochs, ridge=0.2, regularisation=0.01
        )
        for name, reference in independent(epochs).items():
            found = edit.tensors[name].double().numpy()
            assert np.abs(found - reference).max() <= 1e-4 * np.abs(reference).max(), name


def test_what_fools_uce_is_closed_by_an_epoch() -> None:
    """The embedding that best draws the concept after UCE draws it worse after one epoch."""
    model = tiny_model()
    before = dict(model.unet.named_parameters())
    church = model.family.last_token_embeds(["church"])
    plain, once = edited("church", epochs=0).tensors, edited("church", epochs=1).tensors
    originals = [before[name] for name in plain]
    hostile = adversarial_embeds(originals, list(plain.values()), church, 1e-3)

    def distance(tensors: dict[str, Tensor]) -> float:
        pairs = zip(originals, tensors.values(), strict=True)
        return sum(
            float((hostile @ n.double().T - (church @ w.T).double()).norm()) for w, n in pairs
        )

    assert distance(once) > 1.2 * distance(plain)


def test_the_order_of_concepts_is_irrelevant() -> None:
    one, other = edited("church", "bus", "banana"), edited("banana", "church", "bus")
    for name, value in one.tensors.items():
        assert torch.allclose(other.tensors[name], value, rtol=0, atol=1e-5)


def test_a_concept_that_is_its_own_guide_stays() -> None:
    """UCE changes nothing, so c' is c but for the regularisation, and maps to where it was."""
    edit = edited("church", guide="church", regularisation=1e-12)
    original = dict(tiny_model().unet.named_parameters())
    for name, value in edit.tensors.items():
        assert torch.allclose(value, original[name], atol=1e-5)

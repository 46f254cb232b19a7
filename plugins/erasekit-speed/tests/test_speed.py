"""SPEED: all that erasekit asks of a method, and its constrained least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.edits import Edit
from erasekit.errors import ConfigError
from erasekit.plugin.registry import Registry
from erasekit.testing import MethodTester, tiny_model
from erasekit.training.erase import erase
from erasekit_speed import hooks
from erasekit_speed.null_space import augmented, free_directions, influential, invariant_rows
from erasekit_speed.speed import NullSpaceErasure, SpeedConfig

PLAIN = {"augment": 0, "influence_filter": False}


class TestSpeed(MethodTester):
    """Every test of `MethodTester`. The tiny model's rows are 16 wide, so a few words fill them.

    The seed is of the variations alone. They span the same directions whatever their lengths are,
    so that it changes nothing but what lies near the threshold.
    """

    method = "speed"
    plugins = (hooks,)
    settings = {"num_concepts": 4}  # noqa: RUF012
    scopes = ("xattn-kv", "xattn")
    seeded = False


def registry() -> Registry:
    return TestSpeed().registry()


def edited(*erased: str, **settings: Any) -> Edit:
    return erase(tiny_model(), Erasure.of(*erased), "speed", registry=registry(), settings=settings)


def rows(count: int, seed: int, width: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


ERASED, GUIDES, KEPT, INVARIANT, WEIGHT = (rows(n, seed) for seed, n in enumerate((3, 3, 6, 2, 9)))


def update(**config: Any) -> Tensor:
    """Of the random layer `WEIGHT`."""
    method = NullSpaceErasure(SpeedConfig(**{**PLAIN, "threshold": 1e-9, **config}))
    method.erased, method.guides, method.kept = ERASED, GUIDES, KEPT
    method.invariant = INVARIANT
    return method.update("any", WEIGHT)


def close(found: Any, reference: Any) -> bool:
    found, reference = np.asarray(found), np.asarray(reference)
    return bool(np.abs(found - reference).max() <= 1e-5 * np.abs(reference).max())


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_the_solution_is_that_of_the_stacked_constrained_problem(ridge: float) -> None:
    """Delta = Z N^T, N a basis of the null space of kept and invariant rows by scipy."""
    basis = scipy.linalg.null_space(np.concatenate([KEPT, INVARIANT]))
    keys, residuals = ERASED.numpy() @ basis, (GUIDES - ERASED).numpy() @ WEIGHT.numpy().T
    left = np.concatenate([keys, ridge**0.5 * np.eye(basis.shape[1])])
    right = np.concatenate([residuals, np.zeros((basis.shape[1], len(WEIGHT)))])
    reference = np.linalg.lstsq(left, right, rcond=None)[0].T @ basis.T
    assert close(update(ridge=ridge), reference)


def test_the_solution_is_the_papers_formula() -> None:
    """Delta P = W (C_* - C_1) C_1^T P Q M with M = (C_1 C_1^T P + I)^-1 and
    Q = I - M C_2 (C_2^T P M C_2)^-1 C_2^T P, columns being concepts."""
    c1, cs, c0, c2 = (rows.numpy().T for rows in (ERASED, GUIDES, KEPT, INVARIANT))
    values, vectors = np.linalg.eigh(c0 @ c0.T / c0.shape[1])
    null = vectors[:, values < 1e-9]
    p, identity = null @ null.T, np.eye(len(c1))
    m = np.linalg.inv(c1 @ c1.T @ p + identity)
    q = identity - m @ c2 @ np.linalg.inv(c2.T @ p @ m @ c2) @ c2.T @ p
    assert close(update(ridge=1.0), WEIGHT.numpy() @ (cs - c1) @ c1.T @ p @ q @ m)


def test_invariant_and_kept_rows_are_mapped_as_before() -> None:
    delta = update()
    size = delta.norm()
    assert (delta @ INVARIANT.T).norm() < 1e-10 * size
    assert (delta @ KEPT.T).norm() < 1e-6 * size
    assert (delta @ ERASED.T).norm() > 0.1 * size


def test_kept_rows_move_within_the_stated_bound() -> None:
    """Mean ||Delta c||^2 <= ||Z||_2^2 times the eigenvalues below the threshold."""
    scales = torch.logspace(0, -2, len(KEPT), dtype=torch.float64)[:, None]
    kept, seen = KEPT * scales, []
    for threshold in (1e-9, 1e-2, 1e9):
        basis = free_directions(kept, INVARIANT, threshold)
        z = rows(9, 7, basis.shape[1])
        eigenvalues = np.linalg.eigvalsh((kept.T @ kept / len(kept)).numpy())
        bound = np.linalg.norm(z.numpy(), 2) ** 2 * eigenvalues[eigenvalues < threshold].sum()
        moved = float((kept @ basis @ z.T).square().sum(dim=1).mean())
        assert moved <= bound + 1e-9
        assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype))
        seen.append(basis.shape[1])
    assert seen == [12, seen[1], 18]
    assert 12 < seen[1] < 18


def test_without_kept_rows_only_the_invariants_bind() -> None:
    assert free_directions(KEPT[:0], INVARIANT, 0.1).shape == (20, 18)
    twice = torch.cat([INVARIANT, INVARIANT])
    assert free_directions(KEPT[:0], twice, 0.1).shape == (20, 18)


def test_a_large_ridge_changes_nothing() -> None:
    assert update(ridge=1e12).norm() < 1e-9 * WEIGHT.norm()


def test_invariants_are_the_begin_of_text_and_the_leading_directions_of_the_rest() -> None:
    empty = rows(10, 4)
    found = invariant_rows(empty, 2)
    assert torch.equal(found[0], empty[0])
    values, vectors = np.linalg.eigh((empty[1:].T @ empty[1:]).numpy())
    for row, vector in zip(found[1:], vectors.T[::-1], strict=False):
        assert abs(float(np.asarray(row) @ vector)) == pytest.approx(1)
    assert values.argmax() == len(values) - 1
    assert len(invariant_rows(empty, 50)) == 10


def test_the_filter_leaves_rows_that_are_moved_more_than_the_average() -> None:
    delta = rows(9, 8)
    influence = np.linalg.norm(KEPT.numpy() @ delta.numpy().T, axis=1)
    expected = KEPT[torch.from_numpy(influence > influence.mean())]
    assert 0 < len(expected) < len(KEPT)
    assert torch.equal(influential(KEPT, delta), expected)
    assert torch.equal(influential(KEPT[:1], delta), KEPT[:1])
    assert len(influential(KEPT[:0], delta)) == 0


def test_variations_lie_along_the_direction_that_the_projection_reads_least() -> None:
    copies = augmented(KEPT, WEIGHT, 4, torch.Generator().manual_seed(0))
    assert copies.shape == (4 * len(KEPT), 20)
    moved = copies - KEPT.repeat(4, 1)
    assert torch.linalg.matrix_rank(moved) == 1
    smallest = float(np.linalg.svd(WEIGHT.numpy(), compute_uv=False)[-1])
    read = (moved @ WEIGHT.T).norm(dim=1) / moved.norm(dim=1)
    assert torch.allclose(read, torch.full_like(read, smallest))
    again = augmented(KEPT, WEIGHT, 4, torch.Generator().manual_seed(0))
    assert torch.equal(copies, again)


def test_the_empty_prompt_is_read_as_before_and_the_erased_one_is_not() -> None:
    """The tiny model's rows are 16 wide; all 15 rows behind the begin of text span them."""
    edit = edited("church", keep="bus", invariants=2)
    model = tiny_model()
    original = dict(model.unet.named_parameters())
    begin = model.family.token_embeds([""])[0, 0]
    church = model.family.last_token_embeds(["church"])[0]
    for name, value in edit.tensors.items():
        delta = value - original[name]
        assert (delta @ begin).norm() < 1e-4 * (original[name] @ begin).norm()
        assert (delta @ church).norm() > 1e-2 * (original[name] @ church).norm()


def test_the_order_of_concepts_is_irrelevant() -> None:
    one = edited("church", "bus", keep="castle, car", **PLAIN)
    other = edited("bus", "church", keep="car, castle", **PLAIN)
    for name, value in one.tensors.items():
        assert torch.allclose(other.tensors[name], value, rtol=0, atol=1e-5)


def test_a_concept_that_is_its_own_guide_changes_nothing() -> None:
    edit = edited("church", guide="church", keep="castle")
    original = dict(tiny_model().unet.named_parameters())
    assert all(torch.equal(value, original[name]) for name, value in edit.tensors.items())


def test_kept_words_come_from_the_concept_space() -> None:
    words = edited("church", num_concepts=2), edited("church", num_concepts=4)
    assert any(not torch.equal(words[1].tensors[n], v) for n, v in words[0].tensors.items())


def test_no_direction_left_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"leave .* no direction to change; raise threshold"):
        edited("church", threshold=1e-12, num_concepts=40, **PLAIN)

"""Both closed forms beside numpy's least squares, and the laws they keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from erasekit_mace.closed_form import Solver, fusion_residuals, refinement_residuals

OUT, WIDTH, RIDGE = 12, 8, 0.05


def rows(count: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def lstsq(pairs: list[tuple[Any, Any, float]], weight: Tensor, ridge: float) -> Any:
    """argmin sum of w ||W' e - y||^2 over `pairs` of rows e, rows y and w, + ridge ||W' - W||^2."""
    pairs = [*pairs, (np.eye(weight.shape[1]), weight.numpy().T, ridge)]
    left = np.concatenate([np.sqrt(w) * np.asarray(e) for e, _, w in pairs])
    right = np.concatenate([np.sqrt(w) * np.asarray(y) for _, y, w in pairs])
    return np.linalg.lstsq(left, right, rcond=None)[0].T


def assert_near(found: Tensor, expected: Any) -> None:
    assert np.abs(found.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kept_count", [0, 3, 40])
@pytest.mark.parametrize("count", [1, 5, 30])
def test_refinement_is_that_of_the_least_squares_problem(count: int, kept_count: int) -> None:
    """sum ||W' e_f - W e_g||^2 + lambda sum ||W' e_p - W e_p||^2 + ridge ||W' - W||^2"""
    weight, found, wanted = rows(OUT, WIDTH, 0), rows(count, WIDTH, 1), rows(count, WIDTH, 2)
    kept = rows(kept_count, WIDTH, 3)
    solver = Solver(found, kept, 0.3, RIDGE)
    refined = weight + solver.update(refinement_residuals(weight, found, wanted))
    pairs = [(found, wanted @ weight.T, 1.0), (kept, kept @ weight.T, 0.3)]
    assert_near(refined, lstsq(pairs, weight, RIDGE))


@pytest.mark.parametrize("kept_count", [0, 40])
def test_fusion_is_that_of_the_least_squares_problem(kept_count: int) -> None:
    """sum_ij ||W* e_ij - (W' + u_i v_i) e_ij||^2 + lambda sum ||W* e_p - W e_p||^2 + ridge ..."""
    weight, refined, kept = rows(OUT, WIDTH, 0), rows(OUT, WIDTH, 1), rows(kept_count, WIDTH, 2)
    factors = [(rows(2, WIDTH, 10 + i), rows(OUT, 2, 20 + i)) for i in range(3)]
    own = [rows(4 + i, WIDTH, 30 + i) for i in range(3)]
    solver = Solver(torch.cat(own), kept, 0.3, RIDGE)
    fused = weight + solver.update(fusion_residuals(refined - weight, factors, own))
    pairs = [
        (e, e @ (refined + up @ down).T, 1.0) for e, (down, up) in zip(own, factors, strict=True)
    ]
    assert_near(fused, lstsq([*pairs, (kept, kept @ weight.T, 0.3)], weight, RIDGE))


def test_words_that_are_their_own_targets_change_nothing() -> None:
    weight, found = rows(OUT, WIDTH, 0), rows(20, WIDTH, 1)
    update = Solver(found, rows(5, WIDTH, 2), 0.1, RIDGE).update(
        refinement_residuals(weight, found, found)
    )
    assert float(update.abs().max()) == 0


def test_without_refinement_and_training_fusion_changes_nothing() -> None:
    own = [rows(6, WIDTH, 1)]
    factors = [(rows(2, WIDTH, 2), torch.zeros(OUT, 2, dtype=torch.float64))]
    residuals = fusion_residuals(torch.zeros(OUT, WIDTH), factors, own)
    assert float(Solver(own[0], own[0][:0], 0.0, RIDGE).update(residuals).abs().max()) == 0


def test_the_order_of_concepts_is_irrelevant() -> None:
    refinement = rows(OUT, WIDTH, 0)
    factors = [(rows(2, WIDTH, 10 + i), rows(OUT, 2, 20 + i)) for i in range(3)]
    own = [rows(4 + i, WIDTH, 30 + i) for i in range(3)]
    kept, order = rows(9, WIDTH, 1), [2, 0, 1]
    first = Solver(torch.cat(own), kept, 0.1, RIDGE).update(
        fusion_residuals(refinement, factors, own)
    )
    turned = [own[i] for i in order]
    second = Solver(torch.cat(turned), kept, 0.1, RIDGE).update(
        fusion_residuals(refinement, [factors[i] for i in order], turned)
    )
    torch.testing.assert_close(second, first, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("preserve_scale", "ridge"), [(1e9, RIDGE), (0.1, 1e9)])
def test_lambda_to_infinity_changes_nothing(preserve_scale: float, ridge: float) -> None:
    """Of the kept rows where they span the space, and of the ridge in any case."""
    weight, found, wanted = rows(OUT, WIDTH, 0), rows(20, WIDTH, 1), rows(20, WIDTH, 2)
    kept = rows(3 * WIDTH, WIDTH, 3)
    residuals = refinement_residuals(weight, found, wanted)
    free = Solver(found, kept, 0.1, RIDGE).update(residuals)
    held = Solver(found, kept, preserve_scale, ridge).update(residuals)
    assert float(held.norm()) < 1e-6 * float(free.norm())


def test_kept_rows_move_by_no_more_than_their_weight_allows() -> None:
    """lambda sum ||Delta e_p||^2 is at most the objective at Delta = 0, the residuals alone."""
    weight, found, wanted = rows(OUT, WIDTH, 0), rows(20, WIDTH, 1), rows(20, WIDTH, 2)
    kept, residuals = rows(5, WIDTH, 3), refinement_residuals(weight, found, wanted)
    for preserve_scale in (0.1, 10.0, 1e4):
        update = Solver(found, kept, preserve_scale, RIDGE).update(residuals)
        moved = float((kept @ update.T).square().sum())
        assert moved <= float(residuals.square().sum()) / preserve_scale


def test_with_little_ridge_each_concept_gets_what_its_own_adapter_gives() -> None:
    refinement, own = rows(OUT, WIDTH, 0), [rows(3, WIDTH, 1), rows(4, WIDTH, 2)]
    factors = [(rows(1, WIDTH, 10 + i), rows(OUT, 1, 20 + i)) for i in range(2)]
    residuals = fusion_residuals(refinement, factors, own)
    update = Solver(torch.cat(own), own[0][:0], 0.0, 1e-12).update(residuals)
    torch.testing.assert_close(torch.cat(own) @ update.T, residuals, rtol=1e-6, atol=1e-6)

"""The Frechet distance against its formula with scipy's matrix square root, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from erasekit.metrics.judges.fid import frechet_distance


def sample(n: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(seed, 1, (n, width)) @ rng.normal(size=(width, width)) + rng.normal(
        size=width
    )


def by_formula(one: np.ndarray, other: np.ndarray) -> float:
    means = [rows.mean(axis=0) for rows in (one, other)]
    a, b = (np.cov(rows, rowvar=False) for rows in (one, other))
    root = np.real(sqrtm(a @ b))
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(a + b - 2 * root))


@pytest.mark.parametrize(("n", "m", "width"), [(50, 70, 8), (200, 40, 30), (31, 33, 30)])
def test_it_is_the_formula(n: int, m: int, width: int) -> None:
    one, other = sample(n, width, 1), sample(m, width, 2)
    assert frechet_distance(one, other) == pytest.approx(by_formula(one, other), rel=1e-7)


def test_singular_covariances() -> None:
    """Fewer images than features: a little of the identity, less and less, comes to the same."""
    one, other = sample(6, 20, 1), sample(9, 20, 2)
    a, b = (np.cov(rows, rowvar=False) for rows in (one, other))
    apart = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    for little, close in ((1e-4, 1e-2), (1e-8, 1e-4)):
        plus = little * np.eye(20)
        root = np.real(sqrtm((a + plus) @ (b + plus)))
        assert frechet_distance(one, other) == pytest.approx(
            apart + np.trace(a + b + 2 * plus - 2 * root), rel=close
        )


def test_laws() -> None:
    one, other = sample(40, 6, 1), sample(30, 6, 2)
    found = frechet_distance(one, other)
    assert found == pytest.approx(frechet_distance(other, one), rel=1e-10)
    assert frechet_distance(one, one[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, one + 3) == pytest.approx(9 * 6)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))
    assert frechet_distance(one @ turn, other @ turn) == pytest.approx(found)
    assert frechet_distance(5 * one, 5 * other) == pytest.approx(25 * found)
    spread = frechet_distance(2 * (one - one.mean(axis=0)), one - one.mean(axis=0))
    assert spread == pytest.approx(np.cov(one, rowvar=False).trace())


def test_what_can_not_be_had_is_nan() -> None:
    one = sample(5, 3, 1)
    assert np.isnan(frechet_distance(one[:1], one))
    assert np.isnan(frechet_distance(one, np.empty((0, 3))))
    assert np.isnan(frechet_distance(one, np.vstack([one, [np.nan] * 3])))

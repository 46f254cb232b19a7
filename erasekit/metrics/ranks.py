"""Rank correlation, without scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from erasekit.records import Estimate


def average_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Rank of each value from 1, ties sharing the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def spearman(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Estimate:
    """Spearman's rank correlation over the pairs that are there, with an interval.

    The interval is Fisher's on artanh(r), with the variance (1 + r^2 / 2) / (n - 3) of Bonett and
    Wright (Psychometrika 65, 2000), which suits ranks.

    Returns:
        n counts pairs. NaN where there are fewer than three, or one side is constant; limits are
        NaN below four pairs.
    """
    pairs = np.array([x, y], dtype=np.float64)
    there = pairs[:, ~np.isnan(pairs).any(axis=0)]
    n, missing = there.shape[1], len(x) - there.shape[1]
    if n < 3 or (there.min(axis=1) == there.max(axis=1)).any():
        return Estimate(math.nan, n, missing)
    ranks = [average_ranks(side) - (n + 1) / 2 for side in there]
    r = float(ranks[0] @ ranks[1] / math.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    r = min(max(r, -1.0), 1.0)
    if n < 4:
        return Estimate(r, n, missing)
    if abs(r) == 1:
        return Estimate(r, n, missing, r, r)
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + r * r / 2) / (n - 3))
    return Estimate(
        r, n, missing, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)
    )

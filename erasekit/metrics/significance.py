"""Tests of many concepts at once: sign flips over noises, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
EXACT = 14
"""With this many values or fewer, all sign patterns are enumerated."""
FLIPS = 20_000
"""Sign patterns that are drawn where there are too many to enumerate."""


def sign_flip_test(values: Sequence[float] | NDArray[np.float64]) -> float:
    """One-sided p value for a mean above 0: how often it is as large with random signs.

    Valid where the values are independent and, without an effect, symmetric about 0. Exact for
    few values; else from drawn sign patterns with the observed one among them (Phipson and Smyth,
    2010), always the same ones.

    Args:
        values: one per independent unit, such as a starting noise; NaN is left out.

    Returns:
        NaN where there is no value.
    """
    there = np.asarray(values, dtype=np.float64)
    there = there[~np.isnan(there)]
    if not len(there):
        return math.nan
    signs = _all_signs(len(there)) if len(there) <= EXACT else _drawn_signs(len(there))
    # Rounding must not tell apart two patterns whose sums are the same.
    bound = there.sum() - 1e-12 * np.abs(there).sum()
    return float((signs @ there >= bound).mean())


def smallest_p(values: int) -> float:
    """The smallest p value that `sign_flip_test` can give for this many values."""
    return 2.0**-values if values <= EXACT else 1 / FLIPS


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for testing them together (Holm, 1979): it holds the family-wise error.

    NaN stays NaN and does not count.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for place, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - place)))
        adjusted[i] = largest
    return adjusted


@cache
def _all_signs(values: int) -> NDArray[np.float64]:
    """Every pattern of signs, [2 ** values, values]."""
    patterns = np.arange(2**values)[:, None] >> np.arange(values) & 1
    return np.asarray(1 - 2 * patterns, dtype=np.float64)


@cache
def _drawn_signs(values: int) -> NDArray[np.float64]:
    """The observed pattern and drawn ones, [FLIPS, values]."""
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(FLIPS, values))
    signs[0] = 1.0
    return signs

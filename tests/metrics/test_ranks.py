"""Rank correlation against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from erasekit.metrics.ranks import average_ranks, spearman

LISTS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=30)


@given(LISTS)
def test_ranks_and_correlation_agree_with_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    assert average_ranks(x) == pytest.approx(stats.rankdata(x))
    found = spearman(x.tolist(), y.tolist())
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(found.value)
    else:
        assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
        assert found.low <= found.value <= found.high


def test_missing_values_are_left_out_and_counted() -> None:
    x, y = [1.0, 2.0, math.nan, 4.0, 3.0, 7.0], [2.0, 1.0, 5.0, math.nan, 6.0, 9.0]
    found = spearman(x, y)
    there = [0, 1, 4, 5]
    expected = stats.spearmanr([x[i] for i in there], [y[i] for i in there]).statistic
    assert (found.value, found.n, found.missing) == (pytest.approx(expected), 4, 2)


def test_too_few_pairs_give_nan_and_three_give_no_interval() -> None:
    assert math.isnan(spearman([1.0, 2.0], [1.0, 2.0]).value)
    assert math.isnan(spearman([], []).value)
    three = spearman([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert three.value == pytest.approx(0.5)
    assert three.interval is None


def test_the_interval_covers_the_true_rank_correlation() -> None:
    """Of normal pairs with correlation r it is 6 / pi arcsin(r / 2)."""
    rng, r, size, worlds = np.random.default_rng(0), 0.6, 24, 600
    true = 6 / math.pi * math.asin(r / 2)
    inside = 0
    for _ in range(worlds):
        x = rng.normal(size=size)
        y = r * x + math.sqrt(1 - r * r) * rng.normal(size=size)
        found = spearman(x.tolist(), y.tolist())
        inside += found.low <= true <= found.high
    assert 0.92 <= inside / worlds <= 0.98

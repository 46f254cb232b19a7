"""Sign flips against scipy and enumeration, Holm against its definition as a closed test."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from erasekit.metrics.significance import EXACT, FLIPS, holm, sign_flip_test, smallest_p


@pytest.mark.parametrize("values", [2, 5, 10])
def test_few_values_are_tested_as_scipy_does(values: int) -> None:
    rng = np.random.default_rng(values)
    for _ in range(5):
        sample = rng.normal(0.5, 1, values)
        reference = stats.permutation_test(
            (sample,),
            lambda x, axis: x.mean(axis=axis),
            permutation_type="samples",
            alternative="greater",
            n_resamples=np.inf,
            vectorized=True,
        )
        assert sign_flip_test(sample) == pytest.approx(reference.pvalue)


def test_ties_count_whatever_the_rounding() -> None:
    sample = [0.1, 0.2, 0.3, 0.3]
    sums = [
        round(sum(s * x for s, x in zip(signs, sample, strict=True)), 9)
        for signs in itertools.product((-1, 1), repeat=4)
    ]
    assert sign_flip_test(sample[::-1]) == sum(total >= 0.9 for total in sums) / 16
    assert sign_flip_test([0.0, 0.0, 0.0]) == 1.0
    assert (
        sign_flip_test([0.1] * 3 + [-0.3])
        == sum(
            round(sum(signs[:3]) * 0.1 - signs[3] * 0.3, 9) >= 0
            for signs in itertools.product((-1, 1), repeat=4)
        )
        / 16
    )


def test_many_values_are_drawn_and_come_near_the_exact_test() -> None:
    sample = np.random.default_rng(0).normal(0.4, 1, EXACT + 2)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(sample))))
    exact = (signs @ sample >= sample.sum() - 1e-9).mean()
    assert sign_flip_test(sample) == pytest.approx(exact, abs=4 * math.sqrt(exact / FLIPS))
    assert sign_flip_test(sample) == sign_flip_test(sample)


@pytest.mark.parametrize("values", [1, 3, EXACT, EXACT + 20])
def test_the_smallest_p_is_that_of_one_sign_throughout(values: int) -> None:
    assert sign_flip_test(np.arange(1.0, values + 1)) == smallest_p(values)
    assert sign_flip_test(-np.arange(1.0, values + 1)) == 1.0


def test_without_an_effect_small_p_values_are_as_rare_as_they_say() -> None:
    rng = np.random.default_rng(1)
    found = np.array([sign_flip_test(rng.standard_t(3, 8)) for _ in range(2000)])
    for level in (0.05, 0.25, 0.5):
        assert (found <= level).mean() == pytest.approx(level, abs=0.03)


def test_missing_values_are_left_out_and_nothing_is_nan() -> None:
    assert sign_flip_test([1.0, math.nan, 2.0]) == sign_flip_test([1.0, 2.0]) == 0.25
    assert math.isnan(sign_flip_test([math.nan]))
    assert math.isnan(sign_flip_test([]))


def closed_test(p_values: list[float]) -> list[float]:
    """Holm as the closed test of Bonferroni's: the largest p of all subsets with that test."""
    tests = range(len(p_values))
    subsets = [s for n in tests for s in itertools.combinations(tests, n + 1)]
    return [
        max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s)
        for i in tests
    ]


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(closed_test(p_values))


def test_holm_leaves_nan_alone() -> None:
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)

"""Intervals and tests against closed forms, scipy, enumeration, and simulated worlds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from erasekit.metrics.statistics import (
    EXACT,
    FLIPS,
    MOST_SEEDS,
    CrossedEffect,
    crossed_effect,
    crossed_interval,
    crossed_rate,
    holm,
    sign_flip_test,
    smallest_p,
    spearman,
    wilson,
)


def world(
    rng: np.random.Generator,
    concepts: int,
    noises: int,
    seeds: int,
    noise: float,
    seed: float,
    rest: float,
    *,
    shared: bool = False,
) -> np.ndarray:
    """Deltas of mean 0 with the given standard deviations of noise, seed and interaction."""
    rows = 1 if shared else concepts
    return (
        noise * rng.standard_normal((rows, noises, 1))
        + seed * rng.standard_normal((1, 1, seeds))
        + rest * rng.standard_normal((concepts, noises, seeds))
    )


def same(deltas: np.ndarray, shared: bool) -> list[str] | None:
    """Labels of noises that all rows share, or that none does."""
    return ["the same"] * len(deltas) if shared else None


SETS = ("a", "b", "c", "d")


def several_sets(
    rng: np.random.Generator, concepts: int, noises: int, seeds: int
) -> tuple[np.ndarray, list[str], list[int]]:
    """Deltas of mean 0 of concepts that are kept in every set, from the same noises each time.

    Returns:
        [rows, noises, runs] with a row per set and concept, each run's set, each row's concept.
    """
    image = 2.0 * rng.standard_normal((concepts, noises, 1))
    runs = seeds * len(SETS)
    deltas = np.full((len(SETS) * concepts, noises, runs), math.nan)
    for s in range(len(SETS)):
        deltas[s * concepts : (s + 1) * concepts, :, s * seeds : (s + 1) * seeds] = image + world(
            rng, concepts, noises, seeds, 1.0, 0.5, 1.0
        )
    return deltas, [name for name in SETS for _ in range(seeds)], [*range(concepts)] * len(SETS)


def test_the_mean_weighs_concepts_alike_and_counts_what_is_missing() -> None:
    deltas = np.array([[[1.0], [3.0]], [[10.0], [math.nan]]])
    found = crossed_interval(deltas)
    assert found.value == pytest.approx((2.0 + 10.0) / 2)
    assert (found.n, found.missing) == (3, 1)


def test_nothing_is_nan_not_zero() -> None:
    for deltas in (np.full((3, 2, 2), np.nan), np.empty((0, 0, 0))):
        found = crossed_interval(deltas)
        assert math.isnan(found.value)
        assert found.n == 0
        assert found.interval is None


def test_one_concept_with_one_seed_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(30, 3, 12), rng.normal(28, 3, 12)
    found = crossed_interval((before - after)[None, :, None])
    reference = stats.ttest_rel(before, after).confidence_interval(0.95)
    assert found.low == pytest.approx(reference.low, rel=1e-9)
    assert found.high == pytest.approx(reference.high, rel=1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_the_standard_error_is_that_of_the_analysis_of_variance(shared: bool) -> None:
    concepts, noises, seeds = 5, 6, 4
    deltas = world(np.random.default_rng(2), concepts, noises, seeds, 2.0, 1.0, 1.5, shared=shared)
    # Mean squares of the two-way layout, computed without resampling.
    units = deltas.mean(axis=0, keepdims=True) if shared else deltas
    c = len(units)
    grand = units.mean(axis=(1, 2), keepdims=True)
    by_noise = units.mean(axis=2, keepdims=True)
    mean_over_units = units.mean(axis=(0, 1))
    var_noise = sum(np.var(by_noise[i, :, 0], ddof=1) / noises for i in range(c)) / c**2
    var_seed = np.var(mean_over_units, ddof=1) / seeds
    rest = units - by_noise - units.mean(axis=1, keepdims=True) + grand
    var_rest = sum((rest[i] ** 2).sum() / ((noises - 1) * (seeds - 1)) for i in range(c))
    var_rest /= c**2 * noises * seeds
    variance = var_noise + var_seed - var_rest
    # Each unit has variances of its own, so each is an uncertain part of the sum (Satterthwaite).
    noise_parts = [np.var(by_noise[i, :, 0], ddof=1) / noises / c**2 for i in range(c)]
    rest_parts = (rest**2).sum(axis=(1, 2)) / ((noises - 1) * (seeds - 1)) / c**2 / noises / seeds
    freedom = variance**2 / (
        sum(part**2 / (noises - 1) for part in noise_parts)
        + var_seed**2 / (seeds - 1)
        + sum(part**2 / ((noises - 1) * (seeds - 1)) for part in rest_parts)
    )
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    found = crossed_interval(deltas, noises=same(deltas, shared))
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=1e-9)


def test_two_concepts_whose_noises_spread_differently_have_the_interval_of_welch() -> None:
    rng = np.random.default_rng(11)
    for n in (2, 3, 8):
        wide, narrow = rng.normal(2, 4, n), rng.normal(1, 0.2, n)
        found = crossed_interval(np.stack([wide, narrow])[:, :, None])
        reference = stats.ttest_ind(wide, -narrow, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((reference.low / 2, reference.high / 2))


@pytest.mark.parametrize("noises", [2, 3, 6])
@pytest.mark.parametrize("seeds", [1, 3])
def test_coverage_where_few_concepts_spread_far_more_than_the_others(
    noises: int, seeds: int
) -> None:
    rng = np.random.default_rng(3)
    spread = np.array([4, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25])[:, None, None]
    covered = 0
    for _ in range(400):
        found = crossed_interval(spread * world(rng, 8, noises, seeds, 3.0, 0.0, 1.0))
        covered += found.low <= 0 <= found.high
    # With the degrees of freedom of all noises together it was 0.83 at two noises and one seed.
    assert covered / 400 > 0.92


WORLDS = {
    "one seed": (0.92, {"seeds": 1, "noise": 3.0, "seed": 0.0, "rest": 1.0}),
    "noise rules": (0.92, {"seeds": 2, "noise": 3.0, "seed": 0.2, "rest": 1.0}),
    # One degree of freedom for half of the variance: the known weak spot of Satterthwaite's.
    "two seeds that differ": (0.86, {"seeds": 2, "noise": 1.0, "seed": 1.0, "rest": 1.0}),
    "three seeds that differ": (0.92, {"seeds": 3, "noise": 2.0, "seed": 1.0, "rest": 2.0}),
    "interaction rules": (0.92, {"seeds": 2, "noise": 0.5, "seed": 0.0, "rest": 3.0}),
}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("shared", [False, True], ids=["own noises", "shared noises"])
def test_coverage_is_what_it_says(name: str, shared: bool) -> None:
    least, world_of = WORLDS[name]
    rng = np.random.default_rng(3)
    covered, trials = 0, 500
    for _ in range(trials):
        deltas = world(rng, 8, 6 if shared else 3, **world_of, shared=shared)
        found = crossed_interval(deltas, noises=same(deltas, shared))
        covered += found.low <= 0 <= found.high
    # Chance alone moves 500 trials at 95 % by 1 %, twice that is rare.
    assert covered / trials > least
    assert covered / trials < (1.01 if name == "interaction rules" else 0.995)


def test_seeds_are_resampled_inside_their_erased_set() -> None:
    rng = np.random.default_rng(4)
    first, second = world(rng, 6, 4, 3, 1, 0.1, 0.5), world(rng, 6, 4, 3, 1, 0.1, 0.5)
    both = np.concatenate([first, second + 20.0], axis=2)
    apart = crossed_interval(both, strata=["a"] * 3 + ["b"] * 3)
    mixed = crossed_interval(both)
    assert apart.value == pytest.approx(mixed.value)
    assert apart.high - apart.low < 2.0 < mixed.high - mixed.low


def test_noises_that_sets_share_vary_together() -> None:
    rng = np.random.default_rng(7)
    runs, noises = 2, 3
    # "bus" is kept in both sets, "car" and "road" in one each.
    kept = [("a", "bus"), ("b", "bus"), ("a", "car"), ("b", "road")]
    deltas = np.full((len(kept), noises, 2 * runs), math.nan)
    for row, (name, _) in enumerate(kept):
        deltas[row, :, slice(0, runs) if name == "a" else slice(runs, None)] = rng.normal(
            0, 1, (noises, runs)
        )
    per_image = np.nanmean(deltas, axis=2) / len(kept)  # what each image adds to the mean
    parts = [per_image[0] + per_image[1], per_image[2], per_image[3]]
    expected = sum(np.var(part, ddof=1) / noises for part in parts)
    found = crossed_effect(
        deltas,
        strata=["a", "a", "b", "b"],
        noises=[concept for _, concept in kept],
    )
    assert found.over_noises == pytest.approx(expected, rel=1e-9)
    spreads = [np.var(part, ddof=1) for part in parts]
    freedom = sum(spreads) ** 2 / sum(v**2 / (noises - 1) for v in spreads)
    assert found.noise_freedom == pytest.approx(freedom)
    assert found.value == pytest.approx(per_image.mean(axis=1).sum())
    apart = crossed_effect(deltas, strata=["a", "a", "b", "b"])
    alone = sum(np.var(part, ddof=1) / noises for part in per_image)
    assert apart.over_noises == pytest.approx(alone, rel=1e-9)
    assert apart.over_seeds == pytest.approx(found.over_seeds)
    assert apart.noise_freedom != pytest.approx(found.noise_freedom)


def test_labels_of_noises_that_no_row_shares_change_nothing() -> None:
    deltas = world(np.random.default_rng(8), 5, 3, 2, 1, 1, 1)
    deltas[1, 2], deltas[3] = math.nan, math.nan
    assert crossed_effect(deltas, noises=list("abcde")) == crossed_effect(deltas)


def test_coverage_over_several_sets_that_keep_the_same_concepts() -> None:
    rng = np.random.default_rng(9)
    together, apart, trials = 0, 0, 300
    for _ in range(trials):
        deltas, strata, concepts = several_sets(rng, 6, 2, 3)
        found = crossed_interval(deltas, strata=strata, noises=concepts)
        together += found.low <= 0 <= found.high
        found = crossed_interval(deltas, strata=strata)
        apart += found.low <= 0 <= found.high
    assert 0.92 < together / trials < 0.995
    # Taken for independent, as if each set had images of its own, they cover far too little.
    assert apart / trials < 0.8


def test_the_same_deltas_give_the_same_interval() -> None:
    deltas = world(np.random.default_rng(5), 4, 3, 2, 1, 1, 1)
    assert crossed_interval(deltas) == crossed_interval(deltas.copy())


def test_one_noise_has_no_interval() -> None:
    assert crossed_interval(np.array([[[1.0, 2.0]]])).interval is None


def test_no_spread_is_an_interval_of_no_width() -> None:
    found = crossed_interval(np.full((2, 3, 2), 1.5))
    assert found.interval == pytest.approx((1.5, 1.5))


def test_one_concept_with_one_seed_has_the_p_value_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(30, 3, 12), rng.normal(28, 3, 12)
    effect = crossed_effect((before - after)[None, :, None])
    reference = stats.ttest_rel(before, after).pvalue
    assert effect.p_value() == pytest.approx(reference, rel=1e-9)
    assert effect.seeds_needed() is None


@pytest.mark.parametrize("mean", [0.0, 0.7, 1.5, 3.0])
def test_p_is_below_5_percent_where_the_interval_leaves_0_out(mean: float) -> None:
    for seed in range(20):
        deltas = world(np.random.default_rng(seed), 4, 4, 3, 1.0, 1.0, 1.0) + mean
        effect = crossed_effect(deltas)
        found = effect.estimate()
        assert (effect.p_value() < 0.05) == (not found.low <= 0 <= found.high)


def test_p_where_there_is_no_spread_or_nothing() -> None:
    assert crossed_effect(np.zeros((2, 3, 2))).p_value() == 1.0
    assert crossed_effect(np.full((2, 3, 2), 1.5)).p_value() == 0.0
    assert math.isnan(crossed_effect(np.array([[[1.0, 2.0]]])).p_value())
    assert math.isnan(crossed_effect(np.empty((0, 0, 0))).p_value())


def effect_of(
    value: float, noise: float, seed: float, rest: float, *, noises: int, seeds: int
) -> CrossedEffect:
    """What is measured of one concept where the variances come out as they are."""
    interaction = rest**2 / (noises * seeds)
    return CrossedEffect(
        value,
        noises * seeds,
        0,
        noise**2 / noises + interaction,
        seed**2 / seeds + interaction,
        interaction,
        noises - 1,
        seeds - 1,
        (noises - 1) * (seeds - 1),
        float(seeds),
    )


@pytest.mark.parametrize("value", [0.6, 1.0, 2.0])
def test_the_seeds_that_are_needed_are_those_of_the_noncentral_t(value: float) -> None:
    def power(n: int) -> float:
        bound = stats.t.ppf(0.975, n - 1)
        return 1 - stats.nct.cdf(bound, n - 1, value * math.sqrt(n))

    exact = next(n for n in range(2, 100) if power(n) >= 0.8)
    found = effect_of(-value, 0.0, 1.0, 0.0, noises=50, seeds=3).seeds_needed()
    assert abs(found - exact) <= 1


def test_with_the_seeds_that_are_needed_four_tests_of_five_find_it() -> None:
    rng = np.random.default_rng(6)
    needed = effect_of(1.2, 1.0, 1.2, 2.0, noises=8, seeds=3).seeds_needed()
    found = [
        crossed_effect(1.2 + world(rng, 1, 8, needed, 1.0, 1.2, 2.0)).p_value() for _ in range(400)
    ]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.8, abs=0.08)


def test_more_seeds_are_said_for_what_is_there() -> None:
    effect = effect_of(1.0, 1.0, 2.0, 3.0, noises=8, seeds=3)
    assert effect.with_seeds(3).variance == pytest.approx(effect.variance)
    for seeds in (2, 5, 60):
        expected = effect_of(1.0, 1.0, 2.0, 3.0, noises=8, seeds=seeds)
        then = effect.with_seeds(seeds)
        assert then.variance == pytest.approx(expected.variance)
        assert then.freedom == pytest.approx(expected.freedom)


def test_no_number_of_seeds_averages_the_noises_away() -> None:
    assert effect_of(0.1, 3.0, 0.5, 0.0, noises=4, seeds=3).seeds_needed() is None
    assert effect_of(0.01, 0.0, 1.0, 0.0, noises=4, seeds=3).seeds_needed() is None
    most = effect_of(0.1, 0.0, 1.0, 0.0, noises=4, seeds=3).seeds_needed()
    assert 700 < most < MOST_SEEDS


def test_a_rate_of_independent_images_has_wilsons_interval() -> None:
    rng = np.random.default_rng(12)
    for successes, n in ((0, 16), (16, 16), (1, 4)):
        images = rng.permutation([1.0] * successes + [0.0] * (n - successes))
        found = crossed_rate(images[None, :, None])
        if successes in (0, n):
            reference = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
            assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
        assert (found.value, found.n, found.missing) == (successes / n, n, 0)
        assert 0 <= found.low <= found.value <= found.high <= 1
    for share, n in ((0.25, 16), (0.9, 40)):
        reference = stats.binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
        limits = wilson(round(share * n) / n, n, stats.norm.ppf(0.975))
        assert limits == pytest.approx((reference.low, reference.high))


def test_seeds_that_always_agree_add_no_images() -> None:
    draws = np.array([1.0, 1, 1, 0, 1, 0, 1, 1])[None, :, None]
    once, thrice = crossed_rate(draws), crossed_rate(np.repeat(draws, 3, axis=2))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-9)
    ones = np.ones((1, 8, 1))
    assert crossed_rate(np.repeat(ones, 3, axis=2)).low == crossed_rate(ones).low > 0.6


def test_a_rate_of_nothing_is_nan_and_missing_images_are_counted() -> None:
    for table in (np.full((2, 3, 1), math.nan), np.empty((0, 0, 0))):
        assert math.isnan(crossed_rate(table).value)
        assert crossed_rate(table).interval is None
    found = crossed_rate(np.array([[[1.0], [math.nan], [0.0]]]))
    assert (found.value, found.n, found.missing) == (0.5, 2, 1)


RATES = {
    "independent": {"share": 0.9, "noise": 0.0, "seed": 0.0, "seeds": 2},
    "noises decide": {"share": 0.8, "noise": 2.0, "seed": 0.0, "seeds": 3},
    "seeds decide": {"share": 0.7, "noise": 0.3, "seed": 0.5, "seeds": 3},
    "nearly always": {"share": 0.97, "noise": 1.0, "seed": 0.0, "seeds": 2},
}


@pytest.mark.parametrize("name", RATES)
def test_the_interval_of_a_rate_covers_it(name: str) -> None:
    """Images succeed where a normal of share, noise, seed and image is above 0."""
    share, noise, seed, seeds = RATES[name].values()
    rng, spread = np.random.default_rng(13), math.sqrt(1 + noise**2 + seed**2)
    height = stats.norm.ppf(share) * spread
    covered = 0
    for _ in range(500):
        latent = height + world(rng, 1, 16, seeds, noise, seed, 1.0)
        found = crossed_rate((latent > 0).astype(float))
        covered += found.low <= share <= found.high
    assert covered / 500 > 0.92


LISTS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=30)


@given(LISTS)
def test_rank_correlation_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    found = spearman(x.tolist(), y.tolist())
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(found.value)
    else:
        assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
        assert found.low <= found.value <= found.high


def test_missing_pairs_are_left_out_and_counted() -> None:
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

"""The crossed interval against closed forms, scipy, and simulated worlds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from erasekit.metrics.statistics import MOST_SEEDS, CrossedEffect, crossed_effect, crossed_interval


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
    found = crossed_interval((before - after)[None, :, None], resamples=200_000)
    reference = stats.ttest_rel(before, after).confidence_interval(0.95)
    assert found.low == pytest.approx(reference.low, abs=0.02)
    assert found.high == pytest.approx(reference.high, abs=0.02)


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
    freedom_noise, freedom_seed = c * (noises - 1), seeds - 1
    freedom = variance**2 / (
        var_noise**2 / freedom_noise
        + var_seed**2 / freedom_seed
        + var_rest**2 / (freedom_noise * freedom_seed)
    )
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    found = crossed_interval(deltas, noises=same(deltas, shared), resamples=200_000)
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=0.03)


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
        found = crossed_interval(deltas, noises=same(deltas, shared), resamples=400)
        covered += found.low <= 0 <= found.high
    # Chance alone moves 500 trials at 95 % by 1 %, twice that is rare.
    assert covered / trials > least
    assert covered / trials < 0.995


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
        resamples=200_000,
    )
    assert found.over_noises == pytest.approx(expected, rel=0.02)
    assert found.noise_freedom == 3 * (noises - 1)
    assert found.value == pytest.approx(per_image.mean(axis=1).sum())
    apart = crossed_effect(deltas, strata=["a", "a", "b", "b"], resamples=200_000)
    alone = sum(np.var(part, ddof=1) / noises for part in per_image)
    assert apart.over_noises == pytest.approx(alone, rel=0.02)
    assert (apart.over_seeds, apart.noise_freedom) == (
        pytest.approx(found.over_seeds, rel=0.02),
        4 * (noises - 1),
    )


def test_labels_of_noises_that_no_row_shares_change_nothing() -> None:
    deltas = world(np.random.default_rng(8), 5, 3, 2, 1, 1, 1)
    deltas[1, 2], deltas[3] = math.nan, math.nan
    assert crossed_effect(deltas, noises=list("abcde")) == crossed_effect(deltas)


def test_coverage_over_several_sets_that_keep_the_same_concepts() -> None:
    rng = np.random.default_rng(9)
    together, apart, trials = 0, 0, 300
    for _ in range(trials):
        deltas, strata, concepts = several_sets(rng, 6, 2, 3)
        found = crossed_interval(deltas, strata=strata, noises=concepts, resamples=300)
        together += found.low <= 0 <= found.high
        found = crossed_interval(deltas, strata=strata, resamples=300)
        apart += found.low <= 0 <= found.high
    assert 0.92 < together / trials < 0.995
    # Taken for independent, as if each set had images of its own, they cover far too little.
    assert apart / trials < 0.8


def test_the_same_seed_gives_the_same_interval() -> None:
    deltas = world(np.random.default_rng(5), 4, 3, 2, 1, 1, 1)
    assert crossed_interval(deltas) == crossed_interval(deltas)
    assert crossed_interval(deltas) != crossed_interval(deltas, seed=1)


def test_one_noise_has_no_interval() -> None:
    assert crossed_interval(np.array([[[1.0, 2.0]]])).interval is None


def test_no_spread_is_an_interval_of_no_width() -> None:
    found = crossed_interval(np.full((2, 3, 2), 1.5))
    assert found.interval == pytest.approx((1.5, 1.5))


def test_one_concept_with_one_seed_has_the_p_value_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(30, 3, 12), rng.normal(28, 3, 12)
    effect = crossed_effect((before - after)[None, :, None], resamples=200_000)
    reference = stats.ttest_rel(before, after).pvalue
    assert effect.p_value() == pytest.approx(reference, rel=0.03)
    assert effect.seeds_needed() is None


@pytest.mark.parametrize("mean", [0.0, 0.7, 1.5, 3.0])
def test_p_is_below_5_percent_where_the_interval_leaves_0_out(mean: float) -> None:
    for seed in range(20):
        deltas = world(np.random.default_rng(seed), 4, 4, 3, 1.0, 1.0, 1.0) + mean
        effect = crossed_effect(deltas, resamples=200)
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
        crossed_effect(1.2 + world(rng, 1, 8, needed, 1.0, 1.2, 2.0), resamples=300).p_value()
        for _ in range(400)
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

"""Every registered metric against brute force over the records."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from erasekit.metrics.alignment import Alignment
from erasekit.metrics.base import Metric
from erasekit.metrics.delta import Delta
from erasekit.metrics.scores import ConceptScores, Paired
from erasekit.metrics.success_rates import ErasingSuccessRate, PreservingSuccessRate

NAN = math.nan
NAMES = ["alignment", "delta", "esr-1", "esr-5", "psr-1", "psr-5"]


def scores(values, ranks, noises=None) -> ConceptScores:
    noises = tuple(range(len(values))) if noises is None else noises
    return ConceptScores("a thing", noises, tuple(map(float, values)), tuple(map(float, ranks)))


def random_paired(
    rng: np.random.Generator, concept: str, split, noises: int, before=None
) -> Paired:
    seeds = tuple(int(x) for x in rng.integers(0, 2**31, noises)) if before is None else None
    ranks = [1, *rng.integers(1, 9, noises - 1)]  # the base model draws it
    before = before or scores(rng.normal(30, 4, noises), ranks, seeds)
    after = scores(rng.normal(27, 5, noises), rng.integers(1, 9, noises), before.noises)
    return Paired(concept, split, "family", before, after)


@pytest.fixture
def stream() -> list[tuple[Paired, int]]:
    """Two erasure seeds over concepts of every split; the base images are the same for both."""
    rng = np.random.default_rng(7)
    first = [
        random_paired(rng, f"{split} {i}", split, 4)
        for split, i in itertools.product(["erased", "held-out", "pool"], range(3))
    ]
    second = [random_paired(rng, p.concept, p.split, 4, p.before) for p in first]
    return [(p, 0) for p in first] + [(p, 1) for p in second]


def brute_force(name: str, stream: list[tuple[Paired, int]]) -> float:
    kind, _, k = name.partition("-")
    if kind == "alignment":
        return np.mean([s for p, _ in stream if p.split == "erased" for s in p.after.scores])
    if kind == "delta":
        by_concept: dict[str, list[float]] = {}
        for p, _ in stream:
            if p.split == "held-out":
                for i in range(4):
                    by_concept.setdefault(p.concept, []).append(
                        p.before.scores[i] - p.after.scores[i]
                    )
        return np.mean([np.mean(values) for values in by_concept.values()])
    split = "erased" if kind == "esr" else "held-out"
    inside = [r <= int(k) for p, _ in stream if p.split == split for r in p.after.ranks]
    return np.mean(inside) if kind == "psr" else 1 - np.mean(inside)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_brute_force(registry, name: str, stream) -> None:
    descriptor = registry.metric(name)
    metric: Metric = descriptor.load()(**descriptor.options)
    for paired, seed in stream:
        metric.update(paired, seed)
    found = metric.compute()
    assert found.value == pytest.approx(brute_force(name, stream), rel=1e-12)
    assert (found.n, found.missing) == (3 * 4 * 2, 0)
    assert metric.higher_is_better == name.startswith(("esr", "psr"))
    metric.reset()
    assert metric.compute().n == 0


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_nan_with_counts(registry, name: str) -> None:
    descriptor = registry.metric(name)
    metric: Metric = descriptor.load()(**descriptor.options)
    found = metric.compute()
    assert math.isnan(found.value)
    assert (found.n, found.missing) == (0, 0)


def test_all_registered_metrics_are_tested(registry) -> None:
    built_in = [
        n for n, d in registry.metrics().items() if d.target.startswith("erasekit.metrics.")
    ]
    assert sorted(built_in) == sorted(NAMES)


def test_a_missing_image_is_left_out_and_counted() -> None:
    gone = Paired("x", "erased", "", scores([30, 30], [1, 1]), scores([NAN, 10], [NAN, 7]))
    kept = Paired(
        "y", "held-out", "", scores([30, NAN, 30], [1, 1, 1]), scores([20, 20, NAN], [2, 1, NAN])
    )
    for metric, expected in [
        (Alignment(), (10.0, 1, 1)),
        (Alignment("before"), (30.0, 2, 0)),
        (ErasingSuccessRate(), (1.0, 1, 1)),
        (PreservingSuccessRate(), (0.5, 2, 1)),
        (Delta(), (10.0, 1, 2)),
    ]:
        metric.update(gone)
        metric.update(kept)
        found = metric.compute()
        assert (found.value, found.n, found.missing) == expected


def test_before_and_after_are_kept_apart() -> None:
    paired = Paired("x", "erased", "", scores([31], [1]), scores([12], [9]))
    for when, esr in (("before", 0.0), ("after", 1.0)):
        rate = ErasingSuccessRate(when=when)
        rate.update(paired)
        assert rate.compute().value == esr


def test_unpaired_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="same prompt and noises"):
        Paired("x", "pool", "", scores([1], [1], (0,)), scores([1], [1], (1,)))


def test_delta_over_erased_sets_keeps_their_seeds_apart() -> None:
    rng = np.random.default_rng(8)
    delta = Delta()
    values = []
    for stratum in ("a", "b"):
        for seed in (0, 1):
            paired = random_paired(np.random.default_rng(9), "kept", "held-out", 3)
            after = scores(rng.normal(20, 1, 3), [1, 1, 1], paired.before.noises)
            paired = Paired("kept", "held-out", "", paired.before, after)
            values += paired.deltas
            delta.update(paired, seed, stratum)
    found = delta.compute()
    assert found.n == 12
    assert found.value == pytest.approx(np.mean(values))
    assert delta.table()[1] == ["a", "a", "b", "b"]


def test_delta_counts_noises_that_erased_sets_share_once() -> None:
    rng = np.random.default_rng(8)
    first = [random_paired(rng, name, "held-out", 3) for name in ("bus", "car")]
    second = [random_paired(rng, p.concept, p.split, 3, p.before) for p in first]
    delta = Delta()
    for stratum, concepts in (("church", first), ("truck", second)):
        for paired in concepts:
            delta.update(paired, 0, stratum)
    # Of each concept the mean over sets, then the error of a mean of two independent concepts.
    means = np.mean([[p.deltas for p in concepts] for concepts in (first, second)], axis=0)
    expected = np.var(means, axis=1, ddof=1).sum() / 3 / 2**2
    found = delta.effect()
    assert found.value == pytest.approx(means.mean())
    assert found.over_noises == pytest.approx(expected, rel=1e-9)
    assert 2 < found.noise_freedom <= 2 * 2


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        ErasingSuccessRate(k=0)


def test_what_the_base_model_does_not_draw_can_not_be_erased() -> None:
    """Van Gogh after nothing was erased: 100 % of images without him say nothing."""
    unseen = Paired("Van Gogh", "erased", "", scores([20] * 8, [9] * 8), scores([20] * 8, [9] * 8))
    seen = Paired("bus", "erased", "", scores([20] * 4, [1, 9, 9, 9]), scores([20] * 4, [9] * 4))
    esr, before = ErasingSuccessRate(), ErasingSuccessRate(when="before")
    for rate in (esr, before):
        rate.update(unseen)
    assert math.isnan(esr.compute().value)
    assert esr.compute().n == esr.compute().missing == 0
    assert "'Van Gogh' in 0 of 8" in esr.compute().note
    assert before.compute().value == 1.0
    esr.update(seen)
    before.update(seen)
    assert (esr.compute().value, esr.compute().n) == (1.0, 4)
    assert (before.compute().value, before.compute().n) == (0.75, 4)
    assert "'Van Gogh' in 0 of 8" in esr.compute().note


@pytest.mark.parametrize("hits", [0, 8])
def test_seeds_on_the_same_noises_add_none_where_all_succeed_or_fail(hits: int) -> None:
    ranks = [1] * hits + [2] * (8 - hits)
    paired = Paired("x", "held-out", "", scores([1] * 8, [1] * 8), scores([1] * 8, ranks))
    rate = PreservingSuccessRate()
    for seed in range(3):
        rate.update(paired, seed)
    found = rate.compute()
    expected = binomtest(hits, 8).proportion_ci(method="wilson")
    assert (found.n, found.value) == (24, hits / 8)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_concept_that_comes_in_twice_counts_twice() -> None:
    paired = Paired("x", "held-out", "", scores([31], [1]), scores([12], [1]))
    rate, delta = PreservingSuccessRate(), Delta()
    for metric in (rate, delta):
        metric.update(paired)
        metric.update(paired)
        assert metric.compute().n == 2

"""Contrasts of erasures, and the concepts that several erasures share."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from erasekit.bench.records import Cell, Record
from erasekit.concepts import Erasure
from erasekit.errors import ConceptError, ConfigError, TrainingError
from erasekit.metrics.scores import ConceptScores, Estimate, Paired
from erasekit.observe.observation import (
    common_suite,
    compared,
    contrast,
    delta_table,
    measured,
    signed,
    verdict_of,
)

NAN = math.nan


def test_one_concept_and_one_seed_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(3, 1, 12), rng.normal(2, 1, 12)
    found = contrast(((one - other)[None, :, None], 1.0))
    test = stats.ttest_rel(one, other)
    interval = test.confidence_interval(0.95)
    assert found.value == pytest.approx((one - other).mean())
    assert found.interval == pytest.approx((interval.low, interval.high), rel=0.05)


def test_parts_weigh_as_asked_however_many_concepts_they_have() -> None:
    one, other = np.full((3, 2, 1), 4.0), np.full((1, 2, 1), 10.0)
    one[:, 0], one[:, 1] = 3.0, 5.0
    found = contrast((one, 0.5), (other, -0.5))
    assert found.value == pytest.approx(0.5 * 4 - 0.5 * 10)
    assert found.n == 8
    swapped = contrast((other, -0.5), (one, 0.5))
    assert swapped.value == pytest.approx(found.value)


def test_the_standard_error_of_a_difference_is_that_of_welch() -> None:
    """Two concepts with many noises of their own: the variances of the two means add up."""
    rng = np.random.default_rng(2)
    one, other = rng.normal(1, 1, 40), rng.normal(0, 3, 40)
    found = contrast((one[None, :, None], 1.0), (other[None, :, None], -1.0))
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high), abs=0.12)


def test_missing_values_are_left_out_and_a_part_without_any_is_nan() -> None:
    one = np.array([[[1.0], [3.0]], [[NAN], [NAN]], [[NAN], [5.0]]])
    assert contrast((one, 1.0)).value == pytest.approx((2 + 5) / 2)
    assert contrast((one, 1.0)).missing == 3
    empty = contrast((one, 1.0), (one[1:2], -1.0))
    assert math.isnan(empty.value)
    assert empty.n == 0
    assert math.isnan(contrast((one[:0], 1.0)).value)


def test_a_verdict_needs_every_part() -> None:
    above, below = Estimate(2, 9, 0, 1, 3), Estimate(-2, 9, 0, -3, -1)
    across, unknown = Estimate(1, 9, 0, -1, 3), Estimate(1, 1)
    assert verdict_of([above, above]) == "held"
    assert verdict_of([above, across]) == "undecided"
    assert verdict_of([above, unknown]) == "undecided"
    assert verdict_of([above, below]) == "not held"
    assert verdict_of([]) == "undecided"


def test_erasures_that_can_not_be_compared_are_refused() -> None:
    assert compared("--keep", ["road+car", ""]) == (("road", "car"), ("",))
    with pytest.raises(ConfigError, match="--keep twice or more"):
        compared("--keep", ["road"])
    with pytest.raises(ConfigError, match="stands twice"):
        compared("--keep", ["road", "road"])
    with pytest.raises(ConfigError, match="stands twice"):
        compared("--erase", ["bus+car", "car+bus"], frozenset)


def test_values_are_worded_with_their_intervals() -> None:
    assert signed(Estimate(1.234, 4, 0, -0.001, 2.5)) == "+1.23 [0.00, 2.50]"
    assert signed(Estimate(-0.001, 1)) == "+0.00"
    assert signed(Estimate(NAN, 0)) == "an unknown amount"


def test_all_erasures_are_evaluated_on_the_same_concepts(suite) -> None:
    erasures = [Erasure.of("garbage truck"), Erasure.of("church")]
    small = replace(suite, spread=("banana", "church"), near=1)
    common = common_suite(small, erasures, ["apple"])
    assert common.spread == ("bus", "car", "castle", "banana", "apple")
    kept = [
        [c.concept for page in common.evaluate(e) for c in page if c.split != "erased"]
        for e in erasures
    ]
    assert kept[0] == kept[1] == list(common.spread)
    everything = common_suite(suite, erasures)
    assert set(everything.spread) == {c.name for c in suite.concepts} - {"garbage truck", "church"}


def test_a_suite_with_nothing_left_is_refused(suite) -> None:
    with pytest.raises(ConceptError, match="leaves no concept"):
        common_suite(replace(suite, spread=("church",)), [Erasure.of("church")])


def test_tables_hold_noises_by_seeds_in_the_order_asked_for() -> None:
    def paired(name: str, *deltas: float) -> Paired:
        noises = tuple(range(len(deltas)))
        before = ConceptScores(name, noises, (10.0,) * len(deltas), (1.0,) * len(deltas))
        after = replace(before, scores=tuple(10 - d for d in deltas))
        return Paired(name, "held-out", "", before, after)

    records = [
        Record(Cell("none", "x", 0, {}), "done", (paired("a", 1, 2), paired("b", 3, NAN))),
        Record(Cell("none", "x", 1, {}), "done", (paired("a", 5, 6), paired("b", 7, 8))),
    ]
    table = delta_table(records, ["b", "a"])
    assert table[0].tolist() == [[3, 7], [pytest.approx(NAN, nan_ok=True), 8]]
    assert table[1].tolist() == [[1, 5], [2, 6]]


def test_a_failed_cell_is_an_error_and_is_tried_again(runner, make_sweep, monkeypatch) -> None:
    from erasekit.bench import runner as module

    def broken(*args, **kwargs):
        raise RuntimeError("out of luck")

    sweep = make_sweep("none")
    with monkeypatch.context() as patch:
        patch.setattr(module, "erase", broken)
        with pytest.raises(TrainingError, match="out of luck"):
            measured(runner, sweep)
    assert [record.status for record in measured(runner, sweep)] == ["done"]

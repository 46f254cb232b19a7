"""Delta at matched erasure, read off along made-up runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from erasekit.bench.compare import TARGETS, match_erasure
from erasekit.bench.records import Record, Waypoint
from erasekit.bench.summary import summarise, summary_json
from erasekit.metrics.scores import ConceptScores, from_json, to_json
from erasekit.metrics.statistics import crossed_effect, holm
from tests.bench.made_up import paired, record

IMAGES = 20


def flags(share: float) -> list[bool]:
    """That share of the erased concept's images is gone."""
    return [i < round(share * IMAGES) for i in range(IMAGES)]


def run(
    method: str, seed: int, path: list[tuple[int, float, list[float]]], erased: str = "church"
) -> Record:
    """A run through (step, ESR-1, deltas of "bus"), the last one its end."""
    stops = tuple(
        Waypoint(
            step,
            (
                paired(erased, "erased", [40.0] * IMAGES, gone=flags(esr1)),
                paired("bus", "held-out", deltas),
            ),
        )
        for step, esr1, deltas in path[:-1]
    )
    steps, esr1, deltas = path[-1]
    gone = flags(esr1)
    return record(method, seed, {"bus": deltas}, erased=erased, gone=gone, along=stops, steps=steps)


def test_delta_is_read_off_between_the_two_points_around_the_target() -> None:
    runs = [
        run("a", 0, [(25, 0.5, [1.0, 2.0]), (50, 0.8, [2.0, 3.0]), (100, 1.0, [6.0, 5.0])]),
        run("a", 1, [(25, 0.95, [3.0, 1.0]), (50, 1.0, [4.0, 2.0]), (100, 1.0, [9.0, 9.0])]),
    ]
    at_90, at_95 = match_erasure("a", "church", runs)
    assert (at_90.esr1, at_95.esr1) == TARGETS == (0.9, 0.95)

    def along(x: float, xs: list[float], ys: list[float]) -> float:
        return float(np.interp(x, xs, ys))

    for found in (at_90, at_95):
        x = found.esr1
        per_image = np.array(
            [
                [along(x, [0.8, 1.0], [2, 6]), along(x, [0.0, 0.95], [0, 3])],
                [along(x, [0.8, 1.0], [3, 5]), along(x, [0.0, 0.95], [0, 1])],
            ]
        )  # [noises, seeds]
        expected = crossed_effect(per_image[None]).estimate()
        assert found.delta.value == pytest.approx(per_image.mean())
        assert (found.delta.low, found.delta.high) == pytest.approx((expected.low, expected.high))
        steps = [along(x, [0.8, 1.0], [50, 100]), along(x, [0.0, 0.95], [0, 25])]
        assert found.step == pytest.approx(np.mean(steps))
        assert found.delta.note == ""


def test_a_run_that_never_gets_there_is_left_out_and_counted() -> None:
    runs = [
        run("a", 0, [(50, 0.5, [1.0, 1.0]), (100, 0.9, [3.0, 3.0])]),
        run("a", 1, [(50, 0.5, [1.0, 1.0]), (100, 0.6, [2.0, 2.0])]),
    ]
    at_90, at_95 = match_erasure("a", "church", runs)
    assert (at_90.delta.value, at_90.delta.note) == (3.0, "1 of 2 runs never there")
    assert math.isnan(at_95.delta.value)
    assert math.isnan(at_95.step)
    assert at_95.delta.note == "2 of 2 runs never there"
    assert at_95.delta.n == 0


def test_the_first_crossing_counts_where_erasure_comes_and_goes() -> None:
    path = [(25, 1.0, [2.0, 2.0]), (50, 0.5, [4.0, 4.0]), (100, 1.0, [8.0, 8.0])]
    at_90, _ = match_erasure("a", "church", [run("a", 0, path)])
    assert at_90.delta.value == pytest.approx(0.9 * 2.0)
    assert at_90.step == pytest.approx(0.9 * 25)


def test_a_concept_that_the_model_never_drew_has_no_matched_point() -> None:
    found = run("a", 0, [(50, 1.0, [1.0, 1.0]), (100, 1.0, [2.0, 2.0])])

    def unknown(concepts):
        return tuple(replace(c, before=replace(c.before, ranks=c.after.ranks)) for c in concepts)

    found = replace(
        found,
        concepts=unknown(found.concepts),
        along=tuple(replace(w, concepts=unknown(w.concepts)) for w in found.along),
    )
    at_90, _ = match_erasure("a", "church", [found])
    assert math.isnan(at_90.delta.value)
    assert at_90.delta.note == "1 of 1 runs of what the base model does not draw"


def test_methods_without_points_along_and_failed_ones_say_so() -> None:
    closed_form = record("b", 0, {"bus": [1.0, 1.0]}, gone=flags(1.0), steps=1)
    failed = Record(replace(closed_form.cell, method="c"), "failed", error="RuntimeError")
    walked = run("a", 0, [(50, 0.5, [1.0, 1.0]), (100, 1.0, [2.0, 2.0])])
    summary = summarise([walked, closed_form, failed])
    notes = {m.method: m.delta.note for m in summary.matched}
    assert notes == {
        "a": "",
        "b": "1 of 1 runs not scored along the way",
        "c": "no run is done",
    }
    data = summary_json(summary)["matched"]
    assert [row["delta"] for row in data[2:]] == [None] * 4
    assert [row["note"] for row in data[::2]] == [None, *list(notes.values())[1:]]
    assert f"Matched erasure: b, church, ESR-1 90 %: {notes['b']}." in summary.notes
    assert summarise([closed_form, failed]).matched == ()


def at_90(end: list[float], esr1: float) -> np.ndarray:
    """Deltas per image at ESR-1 90 % of a run that goes straight from nothing to its end."""
    return 0.9 / esr1 * np.array(end)


ENDS = {
    "a": {0: ([1.0, 2.0, 1.5], 1.0), 1: ([1.2, 2.0, 1.4], 0.9)},
    "b": {0: ([3.0, 3.9, 3.6], 1.0), 1: ([3.02, 3.7, 3.3], 0.9), 2: ([9.0, 9.0, 9.0], 1.0)},
    "c": {0: ([2.0, 2.0, 9.0], 1.0), 1: ([0.0, 5.0, 1.0], 0.5), 2: ([7.0, 7.0, 7.0], 1.0)},
}
"""The end of a run by method and seed: deltas of three images, and ESR-1."""


def straight(method: str, erased: str = "church") -> list[Record]:
    """Runs from nothing to their `ENDS`, with a point along that lies on the line."""
    return [
        run(
            method,
            seed,
            [(50, esr1 / 2, [d / 2 for d in deltas]), (100, esr1, deltas)],
            erased,
        )
        for seed, (deltas, esr1) in ENDS[method].items()
    ]


def apart_at_90(one: str, two: str, seeds: list[int]) -> np.ndarray:
    """Differences of delta of one concept at 90 %, [1, noises, seeds]."""
    runs = [at_90(*ENDS[one][seed]) - at_90(*ENDS[two][seed]) for seed in seeds]
    return np.stack(runs, axis=1)[None]


def test_methods_are_compared_where_both_first_reach_the_target() -> None:
    methods = {method: straight(method) for method in ("a", "b", "c")}
    summary = summarise([record for own in methods.values() for record in own])
    found = {(c.method, c.other): c for c in summary.matched_comparisons if c.esr1 == 0.9}
    expected = {
        ("a", "b"): crossed_effect(apart_at_90("a", "b", [0, 1])),
        ("a", "c"): crossed_effect(apart_at_90("a", "c", [0])),
        ("c", "b"): crossed_effect(apart_at_90("c", "b", [0, 2])),
    }
    assert set(found) == set(expected)
    adjusted = holm([effect.p_value() for effect in expected.values()])
    for p, (pair, effect) in zip(adjusted, expected.items(), strict=True):
        difference = found[pair].difference
        assert difference.value == pytest.approx(effect.value)
        assert difference.interval == pytest.approx(effect.estimate().interval)
        assert difference.n == effect.n
        assert found[pair].p_value == pytest.approx(p)
    assert found["a", "b"].difference.note == ""
    assert found["a", "c"].difference.note == "1 of 2 pairs of runs are not both there"
    assert found["c", "b"].difference.note == "1 of 3 pairs of runs are not both there"
    d = found["a", "b"].difference
    assert found["a", "b"].p_value < 0.05
    assert found["a", "b"].verdict == (
        f"a harms less than b: {d.value:.2f} [{d.low:.2f}, {d.high:.2f}]"
    )
    assert found["a", "c"].verdict == (
        "a can't be told from c at 1 seed; more are needed to say how many"
    )


def test_a_pair_that_no_seed_brings_there_is_not_compared() -> None:
    never = [run("d", s, [(50, 0.1, [1.0, 1.0, 1.0]), (100, 0.2, [2.0] * 3)]) for s in (0, 1)]
    apart = [run("e", 5, [(50, 0.5, [1.0, 1.0, 1.0]), (100, 1.0, [2.0] * 3)])]
    closed_form = [record("f", s, {"bus": [1.0] * 3}, gone=flags(1.0), steps=1) for s in (0, 1)]
    summary = summarise([*straight("a"), *never, *apart, *closed_form])
    assert summary.matched_comparisons == ()
    assert len(summary.comparisons) == 6


def test_methods_are_compared_over_all_sets_with_noises_counted_once() -> None:
    both = [*straight("a"), *straight("b"), *straight("a", "truck"), *straight("b", "truck")]
    summary = summarise(both)
    found = {c.erased: c for c in summary.matched_comparisons if c.esr1 == 0.9}
    assert list(found) == ["church", "truck", "all"]
    one, overall = found["church"].difference, found["all"].difference
    assert overall.value == pytest.approx(one.value)
    assert overall.n == 2 * one.n
    data = json.loads(json.dumps(summary_json(summary), allow_nan=False))["matched_comparisons"]
    (row,) = (r for r in data if (r["erased"], r["esr1"]) == ("all", 0.9))
    assert (row["method"], row["other"]) == ("a", "b")
    assert row["difference"] == pytest.approx(overall.value)
    assert row["ci95"] == pytest.approx([overall.low, overall.high])
    assert set(row) == {*summary_json(summary)["comparisons"][0], "esr1"}
    values, missing = apart_at_90("a", "b", [0, 1]), np.full((1, 3, 2), math.nan)
    table = np.block([[[values, missing]], [[missing, values]]])
    expected = crossed_effect(table, strata=["church"] * 2 + ["truck"] * 2, noises=["bus"] * 2)
    assert overall.interval == pytest.approx(expected.estimate().interval)
    apart = crossed_effect(table, strata=["church"] * 2 + ["truck"] * 2)
    assert expected.over_noises > 1.5 * apart.over_noises


def test_a_missing_image_stays_missing_in_between() -> None:
    walked = run("a", 0, [(50, 0.8, [1.0, 1.0]), (100, 1.0, [math.nan, 3.0])])
    at_90, _ = match_erasure("a", "church", [walked])
    assert (at_90.delta.value, at_90.delta.n, at_90.delta.missing) == (2.0, 1, 1)


def test_sets_stand_alone_and_together_and_exposed_concepts_are_left_out() -> None:
    path = [(50, 0.5, [1.0, 1.0]), (100, 1.0, [2.0, 2.0])]
    runs = [run("a", 0, path), run("a", 0, path, erased="truck")]
    summary = summarise(runs)
    assert [(m.erased, m.esr1) for m in summary.matched] == [
        (erased, target) for erased in ("church", "truck", "all") for target in TARGETS
    ]
    exposed = summarise([replace(runs[0], exposed=("bus",))])
    assert all(math.isnan(m.delta.value) for m in exposed.matched)


def test_records_with_points_along_come_back_from_their_json() -> None:
    walked = run("a", 0, [(50, 0.8, [1.0, 1.0]), (100, 1.0, [2.0, 3.0])])
    assert repr(from_json(Record, to_json(walked))) == repr(walked)
    assert isinstance(walked.along[0].concepts[0].after, ConceptScores)
    old = to_json(walked)
    del old["along"], old["steps"]
    assert from_json(Record, old).along == ()

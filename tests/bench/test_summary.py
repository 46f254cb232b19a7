"""Records to rows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from erasekit.bench.records import Cell, Record
from erasekit.bench.summary import summarise, summary_json
from erasekit.metrics.scores import ConceptScores, Paired

NAN = math.nan
KEYS = {
    "method",
    "erased",
    "esr1",
    "psr1",
    "alignment_before",
    "alignment_after",
    "delta_mean",
    "delta_ci95",
    "delta_pool_mean",
    "delta_worst",
    "seeds",
    "images",
    "seconds",
    "unet_passes",
}


def concept(name: str, split, before, after, ranks=None) -> Paired:
    noises = tuple(range(len(before)))
    ranks = ranks or (1.0,) * len(before)
    return Paired(
        name,
        split,
        "f",
        ConceptScores(name, noises, tuple(before), (1.0,) * len(before)),
        ConceptScores(name, noises, tuple(after), tuple(ranks)),
    )


def record(method: str, erased: str, seed: int, harm: float, status="done", **extra) -> Record:
    concepts = (
        concept(erased, "erased", (30.0, 32.0), (10.0, 12.0), (5.0, 1.0)),
        concept("near", "held-out", (30.0, 31.0), (30 - harm, 31 - 2 * harm)),
        concept("far", "held-out", (25.0, 25.0), (25.0, 25.0 - harm / 10)),
        concept("pool", "pool", (28.0, 28.0), (28.0 - harm / 2, 28.0 - harm / 2)),
    )
    cell = Cell(method, erased, seed, {"n": f"{method}{erased}{seed}"})
    if status == "failed":
        return Record(cell, "failed", error="RuntimeError: broken")
    return Record(cell, "done", concepts, seconds=2.0 + seed, forward=100, backward=20, **extra)


@pytest.fixture
def records() -> list[Record]:
    return [
        record("base", "church", 0, 0.0),
        record("pgd", "church", 0, 4.0),
        record("pgd", "church", 1, 6.0),
        record("none", "church", 0, 8.0),
        record("base", "bus", 0, 0.0),
        record("pgd", "bus", 0, 2.0),
        record("pgd", "bus", 1, 0, status="failed"),
        record("none", "bus", 0, 1.0),
    ]


def test_rows_stand_base_first_per_erased_set(records) -> None:
    summary = summarise(records)
    assert [(r.erased, r.method) for r in summary.rows] == [
        ("church", "base"),
        ("church", "pgd"),
        ("church", "none"),
        ("bus", "base"),
        ("bus", "pgd"),
        ("bus", "none"),
    ]
    assert [(r.erased, r.method) for r in summary.overall] == [
        ("all", "base"),
        ("all", "pgd"),
        ("all", "none"),
    ]


def test_a_row_is_right(records) -> None:
    row = summarise(records).rows[1]
    near = np.mean([4.0, 8.0, 6.0, 12.0])
    far = np.mean([0.0, 0.4, 0.0, 0.6])
    assert row.delta.value == pytest.approx((near + far) / 2)
    assert row.delta_pool.value == pytest.approx(2.5)
    assert row.worst == ("near", pytest.approx(near))
    assert (row.alignment_before.value, row.alignment_after.value) == (31.0, 11.0)
    assert row.esr1.value == 0.5
    assert row.psr1.value == 1.0
    assert (row.seeds, row.failed, row.images) == (2, 0, 16)
    assert (row.seconds, row.unet_passes) == (2.5, 140)
    assert row.delta.low < row.delta.value < row.delta.high


def test_a_failed_cell_is_counted_and_left_out(records) -> None:
    summary = summarise(records)
    row = next(r for r in summary.rows if (r.erased, r.method) == ("bus", "pgd"))
    assert (row.seeds, row.failed) == (1, 1)
    assert row.delta.n == 4
    assert summary.failures == ("pgd, bus, seed 1: RuntimeError: broken",)


def test_over_all_sets_each_concept_of_each_set_weighs_the_same(records) -> None:
    """However many seeds a set has, and whatever other sets its concepts are evaluated in."""
    row = summarise(records).overall[1]
    near = [np.mean([4.0, 8.0, 6.0, 12.0]), np.mean([2.0, 4.0])]
    far = [np.mean([0.0, 0.4, 0.0, 0.6]), np.mean([0.0, 0.2])]
    assert row.delta.value == pytest.approx(np.mean([*near, *far]))


def test_exposed_concepts_count_as_pool_for_all_methods_of_the_set() -> None:
    summary = summarise(
        [record("pgd", "church", 0, 4.0), record("none", "church", 0, 4.0, exposed=("near",))]
    )
    for row in summary.rows:
        assert row.delta.n == 2
        assert row.delta_pool.n == 4
        assert row.worst[0] == "far"


def test_json_has_every_key_and_no_nan(records) -> None:
    data = summary_json(summarise([*records, record("l2", "bus", 0, 0, status="failed")]))
    text = json.dumps(data, allow_nan=False)
    data = json.loads(text)
    for row in [*data["rows"], *data["overall"]]:
        assert set(row) >= KEYS
    base, failed = data["rows"][0], data["rows"][-1]
    assert base["method"] == "base"
    assert (base["delta_mean"], base["delta_ci95"], base["delta_worst"]) == (0.0, [0.0, 0.0], None)
    assert (base["seeds"], base["unet_passes"]) == (0, 140)
    assert failed["delta_mean"] is None
    assert failed["delta_ci95"] == [None, None]
    assert failed["failed"] == 1
    for row in data["per_concept"]:
        assert set(row) >= {"method", "erased", "concept", "delta", "ci95", "n"}
        assert row["concept"] != row["erased"]
        assert row["method"] != "base"
    assert len(data["per_concept"]) == 4 * 3


def test_missing_scores_are_counted() -> None:
    broken = Record(
        Cell("pgd", "x", 0, {}),
        "done",
        (concept("k", "held-out", (30.0, 30.0), (NAN, 20.0)),),
    )
    row = summary_json(summarise([broken]))["rows"][0]
    assert (row["delta_mean"], row["missing"], row["images"]) == (10.0, 1, 1)
    assert row["esr1"] is None

"""Fronts: how they are read off, and what a run writes down."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.front import __main__ as front
from benchmarks.front import harm
from benchmarks.front.along import AlongTheRun, Enough, Look, Yardstick
from benchmarks.front.fronts import (
    area,
    by_concept,
    delta_of,
    passes_of,
    read_off,
    report,
    with_interval,
)
from benchmarks.tuning.__main__ import finished
from erasekit.concepts import Erasure
from erasekit.models.loading import load_model
from erasekit.plugin.registry import Registry

KEPT = {"near": ["car"], "middle": ["boat"], "far": ["moon", "rose"]}


def line(
    lefts: list[float], harm: float, schedule: str = "a", concept: str = "bus", **more: Any
) -> dict[str, Any]:
    """A record that harms by `harm` a point of alignment lost, a near concept twice."""
    points = []
    for number, left in enumerate(lefts, start=1):
        lost = (90 - left) * harm
        points.append(
            {
                "step": 10 * number,
                "passes": 100 * number,
                "left": left,
                "esr1": min(1.0, (90 - left) / 50),
                "still": 1 - number / 10,
                "delta": {"car": 2 * lost, "boat": lost, "moon": lost, "rose": 0.0},
            }
        )
    return {
        "schedule": schedule,
        "settings": {"keep_weight": 3.0},
        "concept": concept,
        "before": 90.0,
        "kept": KEPT,
        "points": points,
        **more,
    }


def test_a_front_is_read_off_between_two_points() -> None:
    run = line([80, 50, 20], 0.1)
    for left in (85, 60, 40, 25):
        assert read_off(run, {"left": left}, delta_of(run)) == pytest.approx((90 - left) * 0.1)
        near = read_off(run, {"left": left}, delta_of(run, ("near",)))
        assert near == pytest.approx(2 * (90 - left) * 0.1)
    assert read_off(run, {"left": 85}, passes_of) == pytest.approx(50)
    assert read_off(run, {"left": 35}, passes_of) == pytest.approx(250)
    assert read_off(run, {"esr1": 0.9}, passes_of) == pytest.approx(250)
    assert math.isnan(read_off(run, {"left": 15}, passes_of))
    assert math.isnan(area(run))
    far = line([80, 50, 10], 0.1)
    assert area(far) == pytest.approx(np.mean([(90 - left) * 0.1 for left in range(15, 41)]))


def test_the_first_passing_counts() -> None:
    """Alignment comes back up where a run wavers; what it first took is read off."""
    run = line([80, 30, 60, 20], 0.1)
    assert read_off(run, {"left": 40}, passes_of) == pytest.approx(180)


def test_a_concept_s_seeds_are_one_value_and_concepts_are_random() -> None:
    runs = [line([10], h, concept=c) for c, h in (("bus", 0.1), ("bus", 0.3), ("bed", 0.4))]
    found = by_concept(runs, lambda run: read_off(run, {"left": 40}, delta_of(run)))
    assert found == {"bus": pytest.approx(10.0), "bed": pytest.approx(20.0)}
    mean, half = 15.0, 12.706 * math.sqrt(50) / math.sqrt(2)
    assert with_interval([10.0, 20.0]) == f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}] (2)"
    assert with_interval([]) == "-"
    assert with_interval([1.0]) == "1.00 (1)"


def test_the_report_pairs_by_concept_and_draws_a_figure_per_question(tmp_path: Path) -> None:
    grid = {
        "against": "b",
        "questions": [
            {"title": "Which", "schedules": ["a", "b"]},
            {"title": "Others", "schedules": ["c"]},
        ],
    }
    lines = [
        line([60, 30, 10], h * scale, schedule, concept)
        for schedule, scale in (("a", 1.0), ("b", 1.5))
        for concept, h in (("bus", 0.1), ("bed", 0.2), ("camel", 0.3))
    ]
    text = report(grid, [*lines, line([60, 30, 10], 5.0, "a", "alone")], tmp_path)
    assert "Differences to b, lambda 3, paired by concept." in text
    differences = next(row for row in text.splitlines()[::-1] if row.startswith("| a, lambda 3"))
    assert differences.split("|")[2].strip().endswith("(3)")
    assert float(differences.split("|")[2].split()[0]) == pytest.approx(-0.5 * 0.2 * 50, abs=0.01)
    assert (tmp_path / "front-1.png").stat().st_size > 5000
    assert not (tmp_path / "front-2.png").exists()


def test_those_that_tell_most_come_first() -> None:
    grid = tomllib.loads(front.GRID.read_text(encoding="utf-8"))
    jobs = list(front.jobs_of(grid))
    assert len({front.key_of(job) for job in jobs}) == len(jobs)
    turns = [grid["schedules"][job["schedule"]]["turn"] for job in jobs]
    assert turns == sorted(turns)
    first = [job for job in jobs if (job["concept"], job["seed"]) == ("bus", 0)]
    assert [job["schedule"] for job in first[:2]] == ["fast", "fast-search"]


def test_what_was_recorded_is_not_run_again() -> None:
    grid = tomllib.loads(front.GRID.read_text(encoding="utf-8"))
    for jobs, name in ((front.jobs_of(grid), "icons"), (harm.jobs_of(grid), "icons-harm")):
        known = {front.key_of(dict(job)) for job in jobs}
        lines = (front.RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert lines
        assert {json.loads(line)["key"] for line in lines} <= known


@pytest.fixture(scope="module")
def look() -> Look:
    registry = Registry()
    model = load_model("icons", registry)
    small = Yardstick(3, 2, near=2, middle=1, far=1, num_inference_steps=3)
    return Look(model, registry, Erasure((model.concept("bus"),)), small)


def test_what_is_kept_is_held_out_and_ranked_by_nearness(look: Look) -> None:
    counts = {group: len(names) for group, names in look.kept.items()}
    assert counts == {"near": 2, "middle": 1, "far": 1}
    splits = {c.name: (c.split, c.family) for c in look.suite.concepts}
    names = [name for group in look.kept.values() for name in group]
    assert len(set(names)) == 4
    assert {splits[name][0] for name in names} == {"held-out"}
    assert all((splits[n][1] == "vehicles") == (n in look.kept["near"]) for n in names)


def test_the_model_that_was_not_touched_has_lost_nothing(look: Look) -> None:
    found = look.measure()
    assert found["left"] == pytest.approx(look.left, abs=0.05)
    assert max(abs(value) for value in found["delta"].values()) < 0.05
    assert found["still"] >= 2 / 3


def test_a_run_stops_when_all_has_been_read_off(look: Look, monkeypatch: Any) -> None:
    seen = iter([(50.0, 0.5), (20.0, 1.0), (14.0, 0.9), (14.0, 0.95), (1.0, 1.0)])

    def measure() -> dict[str, Any]:
        left, esr1 = next(seen)
        look.model.passes.forward += 1000  # what looking takes is not the run's
        return {"left": left, "esr1": esr1}

    monkeypatch.setattr(look, "measure", measure)
    watch = AlongTheRun(look, [2, 4, 6, 8, 10])
    for step in range(1, 8):
        look.model.passes.forward += 7
        watch.on_weights(step, {})
    look.model.passes.forward += 7
    with pytest.raises(Enough):
        watch.on_weights(8, {})
    assert [(p["step"], p["passes"]) for p in watch.points] == [(2, 14), (4, 28), (6, 42), (8, 56)]


def test_runs_are_written_down_once(tmp_path: Path, monkeypatch: Any) -> None:
    small = Yardstick(2, 1, near=1, middle=1, far=1, num_inference_steps=2)
    monkeypatch.setattr(front, "Yardstick", lambda: small)
    grid = tomllib.loads(front.GRID.read_text(encoding="utf-8"))
    grid |= {"concepts": ["bus"], "seeds": [0], "at": [1, 2]}
    grid["schedules"] = {"current-10": grid["schedules"]["current-10"]}
    records = tmp_path / "icons.jsonl"
    front.run(list(front.jobs_of(grid)), records)
    (found,) = finished(records).values()
    assert [point["step"] for point in found["points"]] == [1, 2]
    assert found["points"][0]["delta"].keys() == {n for g in found["kept"].values() for n in g}
    assert found["points"][1]["passes"] > found["points"][0]["passes"] > 0
    before = records.read_bytes()
    front.run(list(front.jobs_of(grid)), records)
    assert records.read_bytes() == before

    own = {"steps": 3, "harm_every": 1, "num_concepts": 4}
    grid["harm"] |= {"concepts": ["bus"], "settings": own}
    grid["harm"]["searches"] = {
        name: grid["harm"]["searches"][name] for name in ("gumbel", "random")
    }
    ranked = tmp_path / "harm.jsonl"
    harm.run(list(harm.jobs_of(grid)), ranked)
    lines = list(finished(ranked).values())
    assert [[r["step"] for r in line["ranks"]] for line in lines] == [[1, 2], [1, 2]]
    text = harm.report(lines, tmp_path)
    assert "| gumbel | " in text
    assert f" of {math.log(4):.2f} |" in text
    assert (tmp_path / "harm-ranks.png").is_file()

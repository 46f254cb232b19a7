"""Edits along a run, drawn and scored in the same cell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from erasekit.bench.plan import steps_along
from erasekit.bench.store import RecordStore
from erasekit.bench.summary import summarise
from erasekit.errors import ConfigError
from erasekit.training.erase import erase
from tests.bench.conftest import QUICK


def test_fractions_become_steps_of_the_run() -> None:
    assert steps_along((0.25, 0.5, 0.75), 100) == (25, 50, 75)
    assert steps_along((0.5, 0.25, 0.51), 4) == (1, 2)
    assert steps_along((0.1, 0.5, 0.9), 1) == ()
    assert steps_along((), 100) == ()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 25, float("nan")])
def test_what_is_no_part_of_a_run_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="--along has"):
        steps_along((0.5, fraction), 100)


@pytest.fixture
def sweep_along(make_sweep):
    def make(*methods: str, along: tuple[float, ...] = (0.34, 0.67), **options):
        sweep = make_sweep(*methods, **options)
        return replace(sweep, suite=replace(sweep.suite, along=along))

    return make


def test_a_cell_is_scored_along_the_way_and_once_only(
    runner, make_sweep, sweep_along, store: RecordStore, registry
) -> None:
    plain = runner.run(make_sweep("none"), runner.plan(make_sweep("none")))
    sweep = sweep_along("none")
    plan = runner.plan(sweep)
    (planned,) = plan.missing
    assert planned.cell.key != plain[1].cell.key
    assert [step for step, _ in planned.along] == [1, 2]
    assert plan.images == 2 * plan.erased_sets[0].images  # its end has been drawn already
    assert plan.erasures == plan.missing  # what lies along it has not
    _, record = runner.run(sweep, plan)
    assert repr(record.concepts) == repr(plain[1].concepts)
    assert (record.edit, record.steps) == (plain[1].edit, QUICK["steps"])
    assert [w.step for w in record.along] == [1, 2]
    assert runner.plan(sweep).missing == ()
    for waypoint in record.along:
        shorter = erase(
            runner.model,
            planned.erasure,
            "none",
            registry=registry,
            settings={**QUICK, "steps": waypoint.step},
        )
        kept = store.edit(waypoint.edit)
        assert kept.info["after_steps"] == waypoint.step
        assert kept.tensors.keys() == shorter.tensors.keys()
        for name, value in kept.tensors.items():
            assert torch.equal(value, shorter.tensors[name])
        assert [store.path("sheets", key).is_file() for key in waypoint.sheets] == [True] * 2
        assert waypoint.concepts != record.concepts
        for own, final in zip(waypoint.concepts, record.concepts, strict=True):
            assert own.before == final.before
    assert repr(store.record(record.cell.key)) == repr(record)
    assert [m.method for m in summarise([record]).matched] == ["none", "none"]


def test_an_edit_that_was_lost_is_made_again_and_the_others_are_left(
    runner, sweep_along, store: RecordStore
) -> None:
    import shutil

    sweep = sweep_along("l2", along=(0.34,))
    _, first = runner.run(sweep, runner.plan(sweep))
    final = store.root / "edits" / first.edit / "edit.safetensors"
    before = final.stat().st_mtime_ns
    shutil.rmtree(store.root / "edits" / first.along[0].edit)
    (store.root / "cells" / f"{first.cell.key}.json").unlink()
    _, again = runner.run(sweep, runner.plan(sweep))
    assert repr(replace(again, checksums={})) == repr(replace(first, checksums={}))
    assert (store.root / "edits" / first.along[0].edit).is_dir()
    assert final.stat().st_mtime_ns == before

"""`erasekit bench --attacks`, as a user runs it, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]


def test_attacks_have_columns_and_are_not_carried_out_twice(
    run, tmp_path: Path, tiny_folder: Path, tiny_scorer_folder: Path
) -> None:
    store = tmp_path / "store"
    asked = (
        *("bench", "--output", store, "--model", tiny_folder, "--concepts", "church"),
        *("--scorer", f"local-dir:{tiny_scorer_folder}", "--seeds", "1", "--methods", "none"),
        *("--images-per-concept", "2", "--sampling-steps", "2", "--json"),
        *("--set", "steps=2", "--set", "trajectory_steps=2", "--set", "trajectories=1"),
    )
    done = run(*asked, "--attacks", "seed-search,relearn")
    assert done.code == 0, done.err
    base, none = done.json["rows"]
    (record,) = (json.loads(p.read_text()) for p in (store / "cells").glob("*.json"))
    outcomes = record["attacks"]["seed-search"]
    assert len(outcomes) == 4
    share = sum(one["success"] for one in outcomes) / 4
    found = none["metrics"]["ASR seed-search"]
    assert found["value"] == pytest.approx(share)
    assert found["n"] == 4
    assert found["higher_is_better"] is False
    assert found["ci95"][0] <= share <= found["ci95"][1]
    ceiling = sum(one["unerased"] for one in outcomes) / 4
    assert base["metrics"]["ASR seed-search"]["value"] == pytest.approx(ceiling)
    if not ceiling:  # a random scorer may see no church: then there is nothing to learn from
        assert none["metrics"]["ASR relearn"]["value"] is None
        assert "`erasekit attack` says why" in none["metrics"]["ASR relearn"]["note"]
    kept = {p: p.stat().st_mtime_ns for p in store.rglob("attacks/*/*/result.json")}
    again = run(*asked, "--attacks", "seed-search,random")
    assert again.code == 0, again.err
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert again.json["rows"][1]["metrics"]["ASR seed-search"] == found
    assert "ASR random" in again.json["rows"][1]["metrics"]
    shown = run("bench", "show", store)
    assert "ASR random" in shown.out.replace("\n", " ")
    bad = run(*asked, "--attacks", "sed-search")
    assert bad.code == 2
    assert "did you mean 'seed-search'" in bad.sentence

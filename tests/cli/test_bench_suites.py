"""`erasekit bench --suite NAME`, each suite from end to end, as small as it goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

SMALL = ["--images-per-concept", 1, "--seeds", 1, "--methods", "none", "--sampling-steps", 1]
SMALL += ["--set", "steps=1", "--set", "trajectory_steps=1", "--set", "trajectories=1"]
Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """`bench("artists", "--model", MODEL)` in an empty folder: what bench.json says."""
    monkeypatch.chdir(tmp_path)

    def do(suite: str, *arguments: object) -> dict[str, Any]:
        done = run("bench", "--suite", suite, *SMALL, *arguments, "--output", "store")
        assert done.code == 0, done.err
        return json.loads((tmp_path / "store" / "bench.json").read_text(encoding="utf-8"))

    return do


@pytest.fixture
def on_tiny(tiny_folder: Path, tiny_scorer_folder: Path) -> list[object]:
    """The tiny model, and a scorer that goes with it."""
    return ["--model", tiny_folder, "--scorer", f"local-dir:{tiny_scorer_folder}"]


def test_metrics_of_a_file_are_in_everything_that_is_shown(
    bench: Bench, run, on_tiny, tmp_path: Path
) -> None:
    concepts = "".join(f'[[concepts]]\nname = "{n}"\n' for n in ("church", "bus", "car", "road"))
    text = 'name = "mine"\nversion = "1"\ncases = [{erase = ["church"]}]\nmetrics = ["delta"]\n'
    (tmp_path / "mine.toml").write_text(text + concepts, encoding="utf-8")
    data = bench("mine.toml", *on_tiny)
    assert data["metrics"] == ["delta"]
    for row in data["rows"]:
        assert row["metrics"]["delta"]["value"] == row["delta_mean"]
    assert run("bench", "show", "store", "--json").json["rows"] == data["rows"]
    assert " delta\n" in run("bench", "show", "store").out.partition("Further measures")[2]
    assert run("bench", "export", "store", "--to", "csv", "-o", "table.csv").code == 0
    assert "metrics_delta_value" in (tmp_path / "table.csv").read_text()
    assert run("report", "store", "--output", "page.html").code == 0
    named = text.replace('["delta"]', '["detla"]')
    (tmp_path / "mine.toml").write_text(named + concepts, encoding="utf-8")
    refused = run("bench", "--suite", "mine.toml", *on_tiny)
    assert refused.code == 2
    assert "did you mean 'delta'?" in " ".join(refused.err.split())

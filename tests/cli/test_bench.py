"""`erasekit bench`, as a user runs it, on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erasekit.cli.console import ProgressBar
from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

SMALL = ["--set", "steps=2", "--set", "trajectory_steps=2", "--set", "trajectories=1"]


@pytest.fixture
def bench(
    run, tmp_path: Path, tiny_folder: Path, tiny_scorer_folder: Path, monkeypatch
) -> Callable[..., Any]:
    """Runs the command in an empty folder; gives how it ended."""
    monkeypatch.chdir(tmp_path)
    base = ["--model", str(tiny_folder), "--scorer", f"local-dir:{tiny_scorer_folder}"]
    base += ["--images-per-concept", "1", "--sampling-steps", "2", *SMALL]

    def do(*arguments: str, code: int = 0):
        done = run("bench", *base, *arguments)
        assert done.code == code, done.err
        return done

    return do


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_the_whole_way_and_the_same_again(bench, tmp_path: Path) -> None:
    command = ["--methods", "none,l2", "--concepts", "church,bus+car", "--seeds", "1", "--json"]
    first = bench(*command)
    data = first.json
    assert data["schema"] == 1
    assert [(r["erased"], r["method"]) for r in data["rows"]] == [
        (erased, method) for erased in ("church", "bus+car") for method in ("base", "none", "l2")
    ]
    assert all(row["seeds"] == 1 for row in data["rows"] if row["method"] != "base")
    assert "4 erasures" in first.err
    store = tmp_path / "runs" / "bench-icons-mini"
    assert json.loads((store / "bench.json").read_text()) == data
    drawn = any(row["esr1"] is not None for row in data["rows"])
    assert (store / "pareto.png").exists() == drawn
    for picture in ("images-church", "images-bus-car"):
        assert (store / f"{picture}.png").stat().st_size > 1000
    before = everything(tmp_path)
    again = bench(*command)
    assert again.json == data
    assert "0 erasures, 0 images" in again.err
    assert everything(tmp_path) == before
    table = bench("--methods", "none", "--concepts", "church", "--seeds", "1")
    assert "Erased: church" in table.out
    assert "ESR-1" in table.out


def test_methods_are_compared_and_scored_along_their_runs(bench) -> None:
    command = ["--methods", "none,l2", "--concepts", "church", "--seeds", "2", "--along", "0.5"]
    data = bench(*command, "--json").json
    (comparison,) = data["comparisons"]
    assert {comparison["method"], comparison["other"]} == {"none", "l2"}
    assert comparison["difference"] <= 0
    assert comparison["verdict"].startswith(comparison["method"])
    assert [(m["method"], m["esr1"]) for m in data["matched"]] == [
        (method, target) for method in ("none", "l2") for target in (0.9, 0.95)
    ]
    assert all((m["delta"] is None) == bool(m["note"]) for m in data["matched"])
    assert data["rows"][1]["harmed"] is None
    assert "too few images per concept (1)" in data["rows"][1]["harmed_note"]
    plan = bench(*command, "--dry-run", "--json").json["plan"]
    assert (plan["erasures"], plan["images"]) == (0, 0)


def test_a_dry_run_says_and_does_nothing(bench, tmp_path: Path) -> None:
    done = bench("--methods", "none", "--concepts", "church", "--dry-run")
    lines = [line.split() for line in done.out.splitlines()]
    (none,) = [line for line in lines if line[:1] == ["none"]]
    (total,) = [line for line in lines if line[:1] == ["all"]]
    assert none[1:3] == total[1:3] == ["2", "2"]
    assert none[3] == total[3] != "0"
    assert any(line[0] == "time" for line in lines if line)
    plan = bench("--concepts", "church", "--dry-run", "--json").json["plan"]
    assert plan["erasures"] == 6 * 2
    assert everything(tmp_path) == []


def test_an_edit_that_is_there_is_no_erasure_to_do(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--methods", "none", "--concepts", "church", "--seeds", "1"]
    assert "1 cell with 1 erasure," in bench(*command).err
    more = [*command, "--images-per-concept", "2"]
    plan = bench(*more, "--dry-run", "--json").json["plan"]
    assert (plan["missing"], plan["erasures"], plan["erasure_unet_passes"]) == (1, 0, 0)
    assert plan["estimate"]["erasure_unet_passes"] == 0
    works = []

    class Spied(ProgressBar):
        def __init__(self, description: str, total: int, period: float) -> None:
            works.append(total)
            super().__init__(description, total, period)

    monkeypatch.setattr("erasekit.cli.bench.ProgressBar", Spied)
    assert "1 cell with 0 erasures" in bench(*more).err
    assert works == [plan["image_unet_passes"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "icons-minny"], "did you mean 'icons-mini'"),
        (["--methods", "gumble"], "did you mean 'gumbel'"),
        (["--methods", "none,"], "empty name"),
        (["--methods", "none,none"], "twice"),
        (["--concepts", ""], "can't be empty"),
        (["--concepts", "church,,bus"], "can't be empty"),
        (["--concepts", "church " * 40], "tokens long"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--seeds", "1000000000"], "--seeds is 1000000000; give 1 to 1,000"),
        (["--images-per-concept", "1000000000"], "give 1 to 10,000"),
        (["--sampling-steps", "1000000000"], "give 1 to 1,000"),
        (["--concepts", "car,Car"], "stands twice"),
        (["--concept", "car", "--concept", "Car"], "stands twice"),
        (["--concepts", '"church'], "not closed"),
        (["--images-per-concept", "0"], "--images-per-concept is 0"),
        (["--sampling-steps", "0"], "--sampling-steps is 0"),
        (["--along", "0.5,1.5"], "--along has 1.5"),
        (["--along", "half"], "no list of numbers"),
        (["--set", "stepz=3"], "did you mean 'steps'"),
        (["--set", "steps=many"], "not valid"),
        (["--set", "steps=0"], "not valid"),
        (["--set", "scope=nothing"], "scope"),
        (["--scorer", "local-dir:nowhere"], "open_clip_config.json"),
        (["--model", "/no/such/folder"], "There is no folder"),
        (["--suite", "nowhere.toml"], "'nowhere.toml' can't be read"),
        (["--classifier", "resnet50"], "--weights resnet50=FILE.safetensors"),
        (["--classifier", "resnet5"], "did you mean 'resnet50'"),
        (["--weights", "resnet50"], "--weights resnet50=FILE.safetensors"),
        (["--weights", "resnet50=x.safetensors"], "does not judge here"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    bench, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = bench(*arguments, code=2)
    assert words in done.err
    assert done.err.count("Error:") == 1
    assert "Traceback" not in done.err
    assert everything(tmp_path) == []


def test_a_suite_of_the_users_from_a_file(bench, tmp_path: Path) -> None:
    folder = tmp_path / "suites"
    folder.mkdir()
    (folder / "mine.toml").write_text(
        'name = "mine"\nversion = "7"\nmethods = ["none"]\nseeds = 1\nclassifier = "resnet50"\n'
        'cases = [{erase = ["church", "bus"], keep = ["car"]}]\n'
        'concepts = [{name = "church"}, {name = "bus"}, {name = "car"}, {name = "castle"}]\n'
    )
    done = bench("--suite", "suites/mine.toml", "--json")
    data = done.json
    assert "mine 7" in done.err
    assert "short protocol" in done.err  # fewer images than the suite's
    assert (data["suite"], data["suite_version"], data["protocol"]) == ("mine", "7", "short")
    assert data["erased_sets"] == [{"erased": "church+bus", "kept": ["car"]}]
    assert data["classifier"] == data["scorer"]
    assert data["measures"] == []
    assert [row["concept"] for row in data["per_concept"]] == ["car"]
    assert {"esr5", "psr5", "measures"} <= set(data["rows"][0])
    (cell,) = (tmp_path / "runs" / "bench-mine" / "cells").glob("*.json")
    evaluation = json.loads(cell.read_text())["cell"]["identity"]["evaluation"]
    assert evaluation["classifier"] == data["classifier"]
    again = bench("--suite", "suites/mine.toml")
    assert "0 erasures, 0 images" in again.err
    assert "scorer and classifier" in again.out


def test_a_folder_of_something_else_is_left_alone(bench, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("thesis")
    done = bench("--output", ".", code=2)
    assert "not empty" in done.err
    assert everything(tmp_path) == ["mine.txt"]


def test_concepts_with_commas_and_pluses_are_one_case_each(bench) -> None:
    plan = bench(
        *("--concept", "Tom, Jerry", "--concept", "C++"),
        *("--concepts", '"a, b"+bus', "--dry-run", "--json"),
    ).json["plan"]
    assert plan["cases"] == ["a, b+bus", "Tom, Jerry", "C++"]


def test_what_was_not_drawn_before_has_no_rate(bench, tmp_path: Path) -> None:
    data = bench("--methods", "none", "--concepts", "xyzzy", "--seeds", "1", "--json").json
    row = data["rows"][1]
    assert (row["esr1"] is None) == (row["esr1_before"] > 0.75)
    assert (row["esr1"] is None) == bool(row["esr1_note"])
    assert (row["esr1"] is None) == any("ESR-1" in note for note in data["notes"])
    assert row["psr1_ci95"][0] <= row["psr1"] <= row["psr1_ci95"][1]


def test_damage_is_said_and_mended(bench, tmp_path: Path) -> None:
    command = ["--methods", "none", "--concepts", "church", "--seeds", "1", "--json"]
    first = bench(*command).json
    (cell,) = (tmp_path / "runs" / "bench-icons-mini" / "cells").glob("*.json")
    cell.write_text(cell.read_text().replace('"forward": ', '"forward": 1', 1))
    again = bench(*command)
    assert "Computed again, since a file is damaged: none, church, seed 0" in " ".join(
        again.err.split()
    )
    assert again.json["rows"] == first["rows"]


def test_the_help_fits_a_terminal_and_has_more_on_demand(run, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short, long = (run("bench", option).out for option in ("--help", "--help-all"))
    assert len(short.splitlines()) <= 60
    for option in ("--along", "--classifier", "--measures", "--weights", "--sampling-steps"):
        assert option not in short
        assert option in long

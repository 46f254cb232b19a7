"""`erasekit bench status|show|export`, the dry run's estimate, and the bar, on one small store."""

from __future__ import annotations

import csv
import doctest
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from erasekit.bench.store import RecordStore
from erasekit.cli import bench_runs
from erasekit.cli.app import main
from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def command(tiny_folder: Path, tiny_scorer_folder: Path) -> list[str]:
    base = ["bench", "--model", str(tiny_folder), "--scorer", f"local-dir:{tiny_scorer_folder}"]
    base += ["--images-per-concept", "1", "--sampling-steps", "1", "--seeds", "1"]
    return [*base, "--set", "steps=2", "--set", "trajectory_steps=2", "--set", "trajectories=1"]


@pytest.fixture(scope="module")
def finished(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a sweep of two cells."""
    folder = tmp_path_factory.mktemp("bench") / "store"
    arguments = ["--methods", "none,l2", "--concepts", "church", "--output", str(folder), "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*command, *arguments])
    assert not ended.value.code
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "store"))


def test_the_examples_hold() -> None:
    assert doctest.testmod(bench_runs).failed == 0


def test_show_prints_the_same_table_from_the_records_alone(run, finished: Path) -> None:
    shown = run("bench", "show", finished, "--json").json
    kept = json.loads((finished / "bench.json").read_text())
    assert shown == {**kept, "store": str(finished)}
    table = run("bench", "show", finished)
    assert "Erased: church" in table.out
    assert table.err == ""


def test_status_show_and_export_load_no_torch(finished: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from erasekit.cli.app import main\n"
        "for arguments in (['status', {0!r}], ['show', {0!r}], "
        "['export', {0!r}, '--to', 'latex', '--output', {1!r}]):\n"
        "    try: main(['bench', *arguments])\n"
        "    except SystemExit as end: assert not end.code\n"
        "assert not {{'torch', 'diffusers', 'transformers', 'open_clip'}} & set(sys.modules)\n"
    ).format(str(finished), str(tmp_path / "t.tex"))
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=60
    )
    assert r"\toprule" in (tmp_path / "t.tex").read_text()


def test_status_counts_done_failed_claimed_and_missing(run, folder: Path) -> None:
    (sweep,) = run("bench", "status", folder, "--json").json["sweeps"]
    counts = ("cells", "done", "failed", "claimed", "missing")
    assert [sweep[count] for count in counts] == [2, 2, 0, 0, 0]
    store = RecordStore(folder)
    none, l2 = store.manifests()[0].cells
    (folder / "cells" / f"{l2.key}.json").unlink()
    failed = json.loads((folder / "cells" / f"{none.key}.json").read_text())
    del failed["checksum"]
    failed |= {"status": "failed", "error": "RuntimeError: no luck", "concepts": []}
    (folder / "cells" / f"{none.key}.json").write_text(json.dumps(failed))
    ready = fork.Event()

    def work() -> None:
        with store.driven():
            store.note({"method": "l2", "erased": l2.erased, "seed": l2.seed})
            ready.set()
            fork.Event().wait(60)

    process = fork.Process(target=work)
    process.start()
    assert ready.wait(10)
    data = run("bench", "status", folder, "--json").json
    (sweep,) = data["sweeps"]
    assert [sweep[count] for count in counts] == [2, 0, 1, 1, 0]
    assert [(cell["method"], cell["pid"]) for cell in sweep["running"]] == [("l2", process.pid)]
    assert sweep["failures"][0]["error"] == "RuntimeError: no luck"
    process.kill()
    process.join()
    told = run("bench", "status", folder)
    assert "failed: none, church, seed 0: RuntimeError: no luck" in told.out
    assert str(process.pid) not in told.out
    (sweep,) = run("bench", "status", folder, "--json").json["sweeps"]
    assert [sweep[count] for count in counts] == [2, 0, 1, 0, 1]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert data["bytes"] == pytest.approx(sum(path.stat().st_size for path in files), abs=500)
    shown = run("bench", "show", folder)
    assert "1 of 2 cells are not there yet" in shown.err
    assert "no luck" in shown.err


def test_a_failed_cell_is_tried_again_on_demand_only(run, command, folder: Path) -> None:
    none, _ = RecordStore(folder).manifests()[0].cells
    path = folder / "cells" / f"{none.key}.json"
    failed = json.loads(path.read_text()) | {"status": "failed", "error": "x", "concepts": []}
    del failed["checksum"]
    path.write_text(json.dumps(failed))
    again = [*command, "--methods", "none,l2", "--concepts", "church", "--output", folder]
    left = run(*again)
    assert left.code == 1
    assert "--retry-failed" in left.err
    assert run(*again, "--retry-failed", "--json").json["failures"] == []


def test_a_sweep_is_chosen_by_its_key(run, command, folder: Path) -> None:
    run(*command, "--methods", "neutral", "--concepts", "church", "--output", folder)
    first, last = RecordStore(folder).manifests()

    def methods(*arguments: object) -> list[str]:
        rows = run("bench", "show", folder, "--json", *arguments).json["rows"]
        return [row["method"] for row in rows]

    assert methods() == ["base", "neutral"]
    assert methods("--sweep", last.key[:6]) == ["base", "neutral"]
    assert methods("--sweep", first.key) == ["base", "none", "l2"]
    wrong = run("bench", "show", folder, "--sweep", "zz")
    assert (wrong.code, "Unknown sweep 'zz'" in wrong.sentence) == (2, True)


@pytest.mark.parametrize("form", ["csv", "parquet", "markdown", "latex"])
@pytest.mark.parametrize("what", ["methods", "concepts", "comparisons"])
def test_export_writes_a_file(run, finished: Path, tmp_path: Path, form: str, what: str) -> None:
    path = tmp_path / "out" / "table"
    done = run("bench", "export", finished, "--to", form, "--table", what, "--output", path)
    assert done.code == 0, done.err
    data: dict[str, Any] = json.loads((finished / "bench.json").read_text())
    if form == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        field = {"methods": "rows", "concepts": "per_concept"}.get(what, what)
        assert [row["method"] for row in rows] == [row["method"] for row in data[field]]
        by = {(row["scorer"], row["classifier"]) for row in rows}
        name = data["scorer"]["name"]
        assert by == {(name, f"{name} zero-shot")}
    assert path.stat().st_size > 200
    taken = run("bench", "export", finished, "--to", form, "--output", path)
    assert (taken.code, "--overwrite" in taken.sentence) == (2, True)


def test_status_bears_with_files_that_come_and_go(
    run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As notes and half-written edits do while a sweep runs."""
    before = run("bench", "status", folder, "--json").json
    brief, gone = (folder / f"{name}.json" for name in ("brief", "gone"))
    half = folder / "edits" / ".half"
    half.mkdir()
    for path in (brief, gone, half / "edit.json"):
        path.write_text("{}")
    stat, scan = os.stat, os.scandir

    def stat_and_remove(path, *arguments, **named):
        if path == gone:
            gone.unlink(missing_ok=True)
        found = stat(path, *arguments, **named)
        if path == brief:
            brief.unlink()
        return found

    def remove_and_scan(path="."):
        if path in (half, str(half)) and half.exists():
            (half / "edit.json").unlink()
            half.rmdir()
        return scan(path)

    monkeypatch.setattr(os, "stat", stat_and_remove)
    monkeypatch.setattr(os, "scandir", remove_and_scan)
    after = run("bench", "status", folder, "--json")
    assert after.code == 0, after.err
    assert after.json["sweeps"] == before["sweeps"]
    assert before["bytes"] <= after.json["bytes"] <= before["bytes"] + 2
    assert not any(path.exists() for path in (brief, gone, half))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "nowhere"], "There is no benchmark in 'nowhere'"),
        (["show", "."], "There is no benchmark in '.'"),
        (["export", "STORE", "--to", "excel", "--output", "x"], "Unknown form 'excel'"),
        (["export", "STORE", "--to", "csv", "--table", "x", "--output", "y"], "Unknown table"),
        (["export", "STORE", "--to", "csv", "--output", "."], "exists"),
        (["export", "STORE", "--to", "csv", "--table", "matched", "--output", "x"], "--along"),
        (
            ["export", "STORE", "--to", "csv", "--table", "matched-comparisons", "--output", "x"],
            "two methods that reach the same erasure",
        ),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_sentence(
    run, finished: Path, tmp_path: Path, monkeypatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("bench", *(str(finished) if a == "STORE" else a for a in arguments))
    assert done.code == 2
    assert words in done.sentence
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_time_and_disk(run, command, tmp_path: Path) -> None:
    arguments = [*command, "--concepts", "church", "--output", tmp_path / "store", "--dry-run"]
    estimate = run(*arguments, "--methods", "none", "--json").json["plan"]["estimate"]
    assert estimate["seconds"] > 0
    assert estimate["bytes"] > 10_000
    assert estimate["erasures_without_record"] == 1
    assert estimate["erasure_unet_passes"] > 0
    told = run(*arguments, "--methods", "none")
    assert "by a short calibration" in told.out
    assert list(tmp_path.iterdir()) == []


def test_nothing_missing_needs_no_calibration(run, command, finished: Path) -> None:
    arguments = ["--methods", "none,l2", "--concepts", "church", "--output", finished, "--dry-run"]
    assert run(*command, *arguments, "--json").json["plan"]["estimate"] is None
    assert "Nothing is missing." in run(*command, *arguments).out


def test_a_terminal_shows_cells_images_and_time(
    run, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*command, "--methods", "none", "--concepts", "church", "--output"]
    quiet = run(*arguments, tmp_path / "one")
    assert "0/1 cells" not in quiet.err
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    shown = run(*arguments, tmp_path / "two").err
    assert "0/1 cells" in shown
    assert "images/s" in shown
    assert "none, church, seed 0: " in shown

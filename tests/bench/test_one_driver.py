"""One process per store, what is left when it dies, and what is damaged or gone is noticed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from erasekit.bench.records import Cell, Record
from erasekit.bench.runner import BenchmarkRunner, Observer
from erasekit.bench.store import RecordStore
from erasekit.bench.summary import summarise, summary_json
from erasekit.errors import Interrupted, OutputError, OutputLostError

fork = multiprocessing.get_context("fork")


class Diary(Observer):
    """Writes down what this process computed, a line each, for the test to read."""

    def __init__(self, path: Path, pause: Callable[[str], None] = lambda line: None) -> None:
        self.path, self.pause, self.current = path, pause, "base"

    def on_base(self, erased: str) -> None:
        self.current = "base"

    def on_cell(self, cell: Cell) -> None:
        self.current = f"{cell.method} {cell.erased} {cell.seed}"
        self.write(f"cell {self.current}")

    def on_images(self, count: int) -> None:
        self.write(f"images {count} {'base' if self.current == 'base' else 'cell'}")

    def on_record(self, record: Record) -> None:
        self.current = "base"

    def write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{line}\n")
        self.pause(line)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


def beside(runner: BenchmarkRunner, store: RecordStore, observer: Observer) -> BenchmarkRunner:
    return BenchmarkRunner(runner.model, runner.scorer, store, observer)


def table(records: list[Record]) -> str:
    """The whole summary to the last digit, without times."""
    return json.dumps(
        summary_json(summarise([replace(r, seconds=0.0, checksums={}) for r in records]))
    )


def start(run: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    process = fork.Process(target=run)
    process.start()
    return process


@pytest.fixture
def make_small(make_sweep):
    """Sweeps of few images: 2 of an erased concept, 1 of each of the 6 others."""

    def make(*methods: str, **options):
        sweep = make_sweep(*methods, **options)
        return replace(sweep, suite=replace(sweep.suite, images_per_concept=1, images_per_erased=2))

    return make


def test_a_second_process_is_refused_in_one_sentence(
    runner, make_small, store, tmp_path: Path
) -> None:
    sweep = make_small("none")
    first = Diary(
        tmp_path / "one", pause=lambda line: time.sleep(1.0 if line.startswith("cell") else 0)
    )

    def work() -> None:
        mine = beside(runner, store, first)
        mine.run(sweep, mine.plan(sweep))

    process = start(work)
    wait_for(lambda: any(line.startswith("cell") for line in first.lines()))
    mine = beside(runner, store, Observer())
    with pytest.raises(OutputError, match=rf"Another bench \(process {process.pid} on .*--output"):
        mine.run(sweep, mine.plan(sweep))
    driver = store.driver()
    assert driver is not None
    assert driver["cell"] == {"method": "none", "erased": "garbage truck", "seed": 0}
    process.join(60)
    assert store.driver() is None
    assert [r.cell.method for r in mine.run(sweep, mine.plan(sweep))] == ["base", "none"]


@pytest.mark.parametrize("how", ["folder", "file"])
def test_a_store_that_is_removed_under_a_bench_is_said(
    runner, make_small, store, tmp_path: Path, how: str
) -> None:
    def remove(line: str) -> None:
        if line == "cell l2 church 0":
            shutil.rmtree(store.root)
            if how == "file":
                store.root.write_text("something else")

    sweep = make_small("none", "l2", "neutral", erased="church")
    mine = beside(runner, store, Diary(tmp_path / "diary", pause=remove))
    with pytest.raises(OutputLostError, match="was removed while it was written") as caught:
        mine.run(sweep, mine.plan(sweep))
    assert caught.value.exit_code == 1
    assert how == "file" or not store.root.exists()


def test_records_that_are_removed_under_a_bench_are_said(
    runner, make_small, store, tmp_path: Path
) -> None:
    def remove(line: str) -> None:
        if line == "cell l2 church 0":
            shutil.rmtree(store.root / "cells")

    sweep = make_small("none", "l2", erased="church")
    mine = beside(runner, store, Diary(tmp_path / "diary", pause=remove))
    with pytest.raises(OutputLostError, match="1 of 3 records were removed"):
        mine.run(sweep, mine.plan(sweep))


def flip(path: Path, at: float = 0.6) -> None:
    """Another value in one byte."""
    data = bytearray(path.read_bytes())
    place = int(len(data) * at)
    while not chr(data[place]).isdigit() and path.suffix == ".json":
        place += 1
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("what", "again"),
    [
        ("cell", ["none, church, seed 0"]),
        ("base", ["the un-erased model's images for church"]),
        ("edit", ["none, church, seed 0"]),
        ("picture", ["none, church, seed 0"]),
        ("base picture", ["the un-erased model's images for church"]),
    ],
)
def test_what_fails_its_checksum_is_computed_again_and_said(
    runner, make_small, store, what: str, again: list[str]
) -> None:
    sweep = make_small("none", "l2", erased="church")
    base, none, l2 = runner.run(sweep, runner.plan(sweep))
    expected = table([base, none, l2])
    assert runner.plan(sweep).remarks == ()
    path = {
        "cell": store.path("cells", none.cell.key),
        "base": store.path("base", base.cell.key),
        "edit": store.root / "edits" / none.edit / "edit.safetensors",
        "picture": store.path("sheets", none.sheets[0]),
        "base picture": store.path("sheets", base.sheets[0]),
    }[what]
    whole = path.read_bytes()
    flip(path)
    plan = runner.plan(sweep)
    assert path.read_bytes() != whole  # a plan touches nothing
    assert len(plan.remarks) == 1
    assert again[0] in plan.remarks[0]
    assert [p.cell.method for p in plan.missing] == ([] if "base" in what else ["none"])
    assert [p.cell.method for p in plan.erasures] == (["none"] if what == "edit" else [])
    assert bool(plan.images) == ("picture" in what)
    assert table(runner.run(sweep, plan)) == expected
    if "picture" in what:
        assert path.read_bytes() == whole
    assert runner.plan(sweep).remarks == ()
    assert runner.plan(sweep).missing == ()


def test_what_is_as_it_was_left_is_not_read_again(
    runner, make_small, store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_small("none", erased="church")
    runner.run(sweep, runner.plan(sweep))
    read: list[str] = []
    digest = hashlib.file_digest

    def counted(file, name):
        read.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    for path in (*store.root.glob("sheets/*"), *store.root.glob("edits/*/*")):
        later = beside(runner, RecordStore(store.root), Observer())
        assert later.plan(sweep).remarks == ()
        assert read == []
        path.touch()
        assert later.plan(sweep).remarks == ()
        assert read == [str(path)]
        later.run(sweep, later.plan(sweep))  # notes what it has read
        read.clear()
    (store.root / "digests.json").write_text("{")
    plan = beside(runner, RecordStore(store.root), Observer()).plan(sweep)
    assert plan.remarks == ()
    assert len(read) == len(set(read)) > 0  # a damaged note is none: all is read, once


def test_what_a_disk_loses_by_itself_is_found_when_it_is_read(
    runner, make_small, store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_small("none", erased="church")
    _, none = runner.run(sweep, runner.plan(sweep))
    path = store.path("sheets", none.sheets[0])
    whole, facts, stat = path.read_bytes(), path.stat(), Path.stat
    flip(path)

    def unchanged(self: Path, **how):
        return facts if self == path else stat(self, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", unchanged)
        assert runner.plan(sweep).remarks == ()
        assert len(store.images(none)) < len(none.concepts)
    assert path.stat().st_mtime_ns > facts.st_mtime_ns
    plan = runner.plan(sweep)
    assert len(plan.remarks) == 1
    runner.run(sweep, plan)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["images 6 base", "cell l2 church 0", "images 6 cell"])
def test_a_killed_process_loses_no_finished_cell(
    runner, make_small, store, tmp_path: Path, line: str
) -> None:
    sweep = make_small("none", "l2", erased="church")
    alone = beside(runner, RecordStore(tmp_path / "alone"), Observer())
    expected = table(alone.run(sweep, alone.plan(sweep)))

    def die(written: str) -> None:
        if written == line:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        mine = beside(runner, store, Diary(tmp_path / "diary", pause=die))
        mine.run(sweep, mine.plan(sweep))

    process = start(work)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    kept = {r.cell.key for r in store.records()}
    again = Diary(tmp_path / "again")
    mine = beside(runner, store, again)
    plan = mine.plan(sweep)
    assert {p.cell.key for p in plan.missing} == {p.cell.key for p in plan.cells} - kept
    assert table(mine.run(sweep, plan)) == expected


def test_what_a_killed_process_left_half_written_is_removed(
    runner, make_small, store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_small("none")

    def work() -> None:
        replace_file = Path.replace

        def dies(self: Path, target: Path) -> Path:
            if "cells" in str(target) or "edits" in str(target.parent):
                os.kill(os.getpid(), signal.SIGKILL)
            return replace_file(self, target)

        monkeypatch.setattr(Path, "replace", dies)
        runner.run(sweep, runner.plan(sweep))

    for _ in range(2):
        process = start(work)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert half_written(store)
    assert list(store.records()) == []
    runner.run(sweep, runner.plan(sweep))
    assert half_written(store) == []


def test_ctrl_c_keeps_finished_cells(runner, make_small, store, tmp_path: Path) -> None:
    sweep = make_small("none", "l2", erased="church")
    diary = Diary(tmp_path / "diary", pause=lambda line: time.sleep(0.5 if "l2" in line else 0))

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        mine = beside(runner, store, diary)
        try:
            mine.run(sweep, mine.plan(sweep))
        except Interrupted as stop:
            (tmp_path / "said").write_text(str(stop))

    process = start(work)
    wait_for(lambda: any("l2" in line for line in diary.lines()))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert "1 of 2 cells are finished and kept" in (tmp_path / "said").read_text()
    assert [r.cell.method for r in store.records()] == ["none"]
    assert half_written(store) == []


def half_written(store: RecordStore) -> list[str]:
    return [p.name for p in store.root.rglob(".*")]


def wait_for(there: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)

"""Several real processes on one store, and what is left when one dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from erasekit.bench.claims import Claims
from erasekit.bench.runner import BenchmarkRunner, Observer
from erasekit.bench.store import RecordStore
from erasekit.bench.summary import summarise
from erasekit.bench.summary_json import summary_json
from erasekit.errors import Interrupted
from erasekit.records import Cell, Record

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

    def on_waiting(self, holder: object) -> None:
        self.write("waiting")

    def write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{line}\n")
        self.pause(line)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


def beside(runner: BenchmarkRunner, store: RecordStore, observer: Observer) -> BenchmarkRunner:
    return BenchmarkRunner(runner.model, runner.scorer, runner.registry, store, observer)


def table(records: list[Record]) -> str:
    """The whole summary to the last digit, without times."""
    return json.dumps(summary_json(summarise([replace(r, seconds=0.0) for r in records])))


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


def test_two_processes_share_a_sweep(runner, make_small, store, tmp_path: Path) -> None:
    sweep = make_small("none", "l2", cases="church,bus")
    alone = beside(runner, RecordStore(tmp_path / "alone"), Observer())
    expected = table(alone.run(sweep, alone.plan(sweep)))

    def work(name: str) -> None:
        # Each waits a little at every step, so that the two are surely at work at once.
        diary = Diary(tmp_path / name, pause=lambda line: time.sleep(0.02))
        mine = beside(runner, store, diary)
        records = mine.run(sweep, mine.plan(sweep))
        (tmp_path / f"{name}.table").write_text(table(records))

    both = [start(lambda name=name: work(name)) for name in ("one", "two")]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    for name in ("one", "two"):
        assert (tmp_path / f"{name}.table").read_text() == expected
    lines = [Diary(tmp_path / name).lines() for name in ("one", "two")]
    cells = Counter(line for part in lines for line in part if line.startswith("cell"))
    assert len(cells) == 4
    assert set(cells.values()) == {1}
    assert all(any(line.startswith("cell") for line in part) for part in lines)
    drawn: Counter[str] = Counter()
    for line in (line for part in lines for line in part if line.startswith("images")):
        _, count, what = line.split()
        drawn[what] += int(count)
    plan = beside(runner, RecordStore(tmp_path / "empty"), Observer()).plan(sweep)
    after = sum(2 * case.images for case in plan.cases)
    assert drawn == {"base": plan.images - after, "cell": after}


def test_a_process_waits_for_the_last_cell_of_another(
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
    second = Diary(tmp_path / "two")
    mine = beside(runner, store, second)
    records = mine.run(sweep, mine.plan(sweep))
    process.join(60)
    assert [r.cell.method for r in records] == ["base", "none"]
    assert set(second.lines()) == {"waiting"}


@pytest.mark.parametrize("line", ["images 6 base", "cell l2 church 0", "images 6 cell"])
def test_a_killed_process_loses_no_finished_cell(
    runner, make_small, store, tmp_path: Path, line: str
) -> None:
    sweep = make_small("none", "l2", cases="church")
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
    assert "waiting" not in again.lines()


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
    sweep = make_small("none", "l2", cases="church")
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


def test_a_failure_of_another_process_is_not_retried_here(
    runner, make_small, store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were started with --retry-failed: the cell is tried once more, not twice."""
    from erasekit.methods.preservation.none import NoPreservation

    tries = []

    def broken(self, task) -> None:
        tries.append(1)
        raise RuntimeError("no luck today")

    monkeypatch.setattr(NoPreservation, "prepare", broken)
    sweep = make_small("none")
    runner.run(sweep, runner.plan(sweep))
    plans = [runner.plan(sweep, retry_failed=True) for _ in range(2)]
    assert [len(plan.missing) for plan in plans] == [1, 1]
    for plan in plans:
        assert runner.run(sweep, plan)[1].status == "failed"
    assert len(tries) == 2


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    ready = fork.Event()

    def hold() -> None:
        with claims.tried("x") as mine:
            assert mine
            ready.set()
            time.sleep(60)

    process = start(hold)
    assert ready.wait(10)
    holder = claims.holder("x")
    assert holder is not None
    assert holder.pid == process.pid
    with claims.tried("x") as mine:
        assert not mine
    with claims.tried("y") as mine:
        assert mine
    process.kill()
    process.join(10)
    assert claims.noted("x") == holder
    assert claims.holder("x") is None
    waited: list[object] = []
    with claims.held("x", waited.append):
        assert claims.noted("x") != holder
    assert waited == []
    assert claims.noted("x") is None


def half_written(store: RecordStore) -> list[str]:
    return [p.name for p in store.root.rglob(".*")]


def wait_for(there: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)

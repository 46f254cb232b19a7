"""A disk that is full, or a file that may not grow, loses no finished cell."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from erasekit.bench.records import Record
from erasekit.bench.runner import BenchmarkRunner, Observer
from erasekit.bench.store import RecordStore
from erasekit.errors import OutputError
from erasekit.metrics.base import SetMeasure
from erasekit.metrics.judges import Judges

SIZE, LEFT = 1_200_000, 40_000
"""Bytes of the small disk, and of what is left of it when the first cell is done: room for the
next one's edit (28 kB), not for its images and record."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of `SIZE` bytes, mounted by a process in a namespace of its own."""
    mount = tmp_path / "disk"
    mount.mkdir()
    script = f"mount -t tmpfs -o size={SIZE} none '{mount}' && echo ready && exec sleep 300"
    try:
        process = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                pytest.skip("this system lets no user mount a file system of their own")
            yield Path(f"/proc/{process.pid}/root{mount}")
        finally:
            process.kill()


@pytest.fixture
def sweep(make_sweep):
    sweep = make_sweep("none", "l2", "neutral", erased="church")
    return replace(sweep, suite=replace(sweep.suite, images_per_concept=1, images_per_erased=2))


def numbers(records: list[Record]) -> list[str]:
    return [repr(replace(r, seconds=0.0, checksums={})) for r in records]


def test_a_full_disk_loses_no_finished_cell(
    runner, sweep, small_disk: Path, tmp_path: Path
) -> None:
    class Fills(Observer):
        """Something else fills the disk while the sweep goes on."""

        def on_record(self, record: Record) -> None:
            if not (small_disk / "ballast").exists():
                with (small_disk / "ballast").open("wb", buffering=0) as file:
                    while room(small_disk) > LEFT:
                        file.write(bytes(4096))

    runner.observer, runner.store = Fills(), RecordStore(small_disk / "store")
    with pytest.raises(OutputError, match=r"No space left .*free some"):
        runner.run(sweep, runner.plan(sweep))
    kept = list(runner.store.records())
    assert [(r.cell.method, r.status) for r in kept] == [("none", "done")]
    assert [p.name for p in runner.store.root.rglob(".*")] == []
    (small_disk / "ballast").unlink()
    runner.observer = Observer()
    plan = runner.plan(sweep)
    assert [p.cell.method for p in plan.missing] == ["l2", "neutral"]
    records = runner.run(sweep, plan)
    fresh = BenchmarkRunner(runner.model, runner.scorer, RecordStore(tmp_path / "fresh"))
    assert numbers(records) == numbers(fresh.run(sweep, fresh.plan(sweep)))


def room(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_a_file_that_may_not_grow_stops_the_sweep_and_is_not_left_behind(
    runner, sweep, tmp_path: Path
) -> None:
    """The system's own limit on file size, which needs no rights: an edit is larger than it."""
    store = RecordStore(tmp_path / "store")
    said = tmp_path / "said"

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        runner.store = store
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            runner.run(sweep, runner.plan(sweep))
        except OutputError as fault:
            said.write_text(str(fault))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert "can't be written" in said.read_text()
    assert list(store.records()) == []
    assert [p.name for p in store.root.rglob(".*")] == []
    runner.store = store
    plan = runner.plan(sweep)
    assert len(plan.missing) == 3
    assert [r.status for r in runner.run(sweep, plan)] == ["done"] * 4


class Wide(SetMeasure):
    """Its features of one sheet are larger than the small disk."""

    name = "wide"
    extractor = identity = {"name": "wide", "version": "1", "weights": ""}  # noqa: RUF012

    def __init__(self, reference: str) -> None:
        self._reference = reference

    @property
    def reference(self) -> str:
        return self._reference

    def features(self, images):
        return np.zeros((len(images), SIZE), dtype=np.float32)

    def reference_features(self):
        return self.features(np.empty((2, 1, 1, 3), dtype=np.uint8))

    def compare(self, features, reference):
        return {}


@pytest.mark.parametrize("reference", ["", "a folder"], ids=["of an edit", "of the base model"])
def test_features_that_do_not_fit_stop_the_sweep_and_fail_no_cell(
    runner, sweep, small_disk: Path, reference: str
) -> None:
    sweep = replace(sweep, suite=replace(sweep.suite, captions=(("a car", 1), ("a bus", 2))))
    runner.scorer = Judges(runner.scorer.scorer, runner.scorer.classifier, sets=(Wide(reference),))
    runner.store = RecordStore(small_disk / "store")
    with pytest.raises(OutputError, match=r"No space left for .*features.*free some"):
        runner.run(sweep, runner.plan(sweep))
    assert list(runner.store.records()) == []
    assert [p.name for p in runner.store.root.rglob(".*")] == []

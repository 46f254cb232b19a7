"""How far a sweep is: cells done, images per second, time left. Silent without a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from erasekit.cli.console import plain, speaks, stderr

if TYPE_CHECKING:
    from erasekit.bench.runner import BenchmarkRunner, Observer, Plan

PERIOD = 600.0
"""Seconds that the speed is averaged over, since one erasure and one batch differ."""


class SweepBar:
    """A bar of work, in UNet passes, with what is counted beside it.

    Args:
        cells: that are to run.
        work: passes that they are expected to take with their images.
    """

    def __init__(self, cells: int, work: float, console: Console | None = None) -> None:
        console = console or stderr()
        self.shown = console.is_terminal and speaks()
        self._progress = Progress(
            BarColumn(bar_width=12),
            TextColumn("{task.fields[cells]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[status]}", style="dim", markup=False),
            console=console,
            transient=True,
            disable=not self.shown,
            speed_estimate_period=PERIOD,
        )
        self.cells, self.work = cells, work
        self.done, self.images, self._drawing, self._last = 0, 0, 0.0, time.perf_counter()
        self._task = self._progress.add_task(
            "", total=work, cells=self._cells(), rate="", status=""
        )

    def start(self) -> None:
        """Show it."""
        if self.shown:
            self._progress.start()

    def stop(self) -> None:
        """Take it away."""
        if self.shown:
            self._progress.stop()

    def status(self, text: str, passes: int) -> None:
        """Show what is being done, and that `passes` have been made since the start."""
        self._last = time.perf_counter()
        self._progress.update(self._task, completed=passes, status=plain(text))

    def draw(self, count: int) -> None:
        """`count` images were drawn since the last call of anything here."""
        now = time.perf_counter()
        self.images += count
        self._drawing += now - self._last
        self._last = now
        if self._drawing:
            rate = f"{self.images / self._drawing:.1f} images/s"
            self._progress.update(self._task, rate=rate)

    def finish_cell(self) -> None:
        """A cell is done."""
        self.done += 1
        self._progress.update(self._task, cells=self._cells())

    def _cells(self) -> str:
        return f"{self.done}/{self.cells} cells"


@contextmanager
def watched(runner: BenchmarkRunner, plan: Plan) -> Iterator[None]:
    """For the block, show how far `runner` is with `plan`."""
    bar = SweepBar(len(plan.missing), plan.image_passes + plan.costs.total)
    before = runner.observer
    runner.observer = _observer(bar, runner)
    bar.start()
    try:
        yield
    finally:
        bar.stop()
        runner.observer = before


def _observer(bar: SweepBar, runner: BenchmarkRunner) -> Observer:
    from erasekit.bench.records import Cell, Record
    from erasekit.bench.runner import Observer

    passes = runner.model.passes
    start = passes.cost

    class Shown(Observer):
        def __init__(self) -> None:
            self.cell = ""

        def on_base(self, erased: str) -> None:
            self._begin(f"base, {erased}")

        def on_cell(self, cell: Cell) -> None:
            self._begin(f"{cell.method}, {cell.erased}, seed {cell.seed}")

        def on_status(self, text: str) -> None:
            bar.status(f"{self.cell}: {text}", passes.cost - start)

        def on_images(self, count: int) -> None:
            bar.draw(count)
            self.on_status("drawing")

        def on_record(self, record: Record) -> None:
            bar.finish_cell()

        def _begin(self, cell: str) -> None:
            self.cell = cell
            bar.status(cell, passes.cost - start)

    return Shown()

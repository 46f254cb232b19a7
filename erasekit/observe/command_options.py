"""What the commands of `erasekit observe` share: a model to observe, and where results go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from erasekit.cli.context import LoadedAs, registry_of
from erasekit.cli.loading import opened
from erasekit.cli.output import SCHEMA, ProgressBar, print_json, print_note, progress, stdout
from erasekit.concepts import slug
from erasekit.errors import OutputError
from erasekit.plugin.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from erasekit.bench.runner import BenchmarkRunner, Observer
    from erasekit.bench.suite import Suite
    from erasekit.bench.sweep import Sweep
    from erasekit.concepts import Erasure
    from erasekit.metrics.base import Scorer
    from erasekit.models.loading import LoadedModel
    from erasekit.observe.tables import Result
    from erasekit.records import Record

RUNS = Path("runs")
RESULTS, PAGE, STORE = "results.json", "table.md", "store"
FIGURES = ("figure.png", "figure.svg")
SHOWN = 20
"""Rows of a long table in the terminal; the files have all."""
TITLES = {
    "impact": "What erasing different concepts harms",
    "spectrum": "Where neutral concepts lie in the sensitivity spectrum",
    "preserve": "What keeping different concepts saves",
}


@dataclass(frozen=True)
class Loading:
    """Which model, where, and in which precision. See `opened`."""

    name: str
    device: str
    dtype: LoadedAs


@dataclass
class Bench:
    """A model with its suite and scorer."""

    model: LoadedModel
    suite: Suite
    scorer: Scorer
    registry: Registry

    def sweep(
        self, suite: Suite, method: str, cases: tuple[Erasure, ...], settings: dict[str, str]
    ) -> Sweep:
        """What is to run: one method on `cases`, with the suite's number of seeds."""
        from erasekit.bench.sweep import Sweep

        return Sweep(suite, (method,), cases, tuple(range(suite.seeds)), settings)

    @contextmanager
    def runner(self, store: Path) -> Iterator[BenchmarkRunner]:
        """A runner on this store, which shows on a progress bar what it is at."""
        from erasekit.bench.runner import BenchmarkRunner
        from erasekit.bench.store import RecordStore

        with progress("Observing") as bar:
            yield BenchmarkRunner(
                self.model, self.scorer, self.registry, RecordStore(store), _observer(bar)
            )

    def how(self, suite: Suite, records: Sequence[Record]) -> dict[str, Any]:
        """How the numbers were made, but for what only the command knows."""
        from erasekit.bench.identity import generation_identity
        from erasekit.observe.paired import settings_of
        from erasekit.training.run_folder import command, versions

        return {
            "model": self.model.id,
            "model_hash": self.model.hash,
            "suite": suite.name,
            "suite_version": suite.version,
            "scorer": self.scorer.identity,
            "images_per_concept": suite.images_per_concept,
            "seeds": sorted({record.cell.seed for record in records}),
            "settings": settings_of(records),
            "generation": generation_identity(suite, self.model),
            "versions": versions(),
            "command": command(),
        }


@contextmanager
def opened_bench(
    context: typer.Context,
    suite: str,
    seeds: int | None,
    images: int | None,
    loading: Loading,
    scorer: str | None,
    sampling_steps: int | None,
) -> Iterator[Bench]:
    """The model, the suite at the scale asked for, and the scorer.

    Raises:
        ConfigError: a number that is not positive, a file that is no suite, or a device that is
            not there.
        ModelError: the model or the scorer can't be had.
        UnknownNameError: an unknown suite, model or scorer.
    """
    from erasekit.bench.suite_file import SUFFIX, load_suite
    from erasekit.bench.sweep import completed
    from erasekit.metrics.judges.registry import load_scorer

    registry = registry_of(context)
    if not suite.endswith(SUFFIX):
        registry.suite(suite)
    with opened(loading.name, registry, device=loading.device, dtype=loading.dtype) as loaded:
        scaled = load_suite(suite, registry, loaded.descriptor).scaled(
            images_per_concept=images,
            images_per_erased=images,
            seeds=seeds,
            num_inference_steps=sampling_steps,
        )
        judge = load_scorer(
            scorer or scaled.scorer or loaded.descriptor.scorer,
            registry,
            device=loaded.family.device,
        )
        scaled = completed(scaled, loaded, registry)
        yield Bench(loaded, scaled.fitting(loaded.family.check_prompt), judge, registry)


@dataclass(frozen=True)
class Place:
    """Where an observation goes."""

    observation: str
    folder: Path
    store: Path

    def finish(self, result: Result, how: dict[str, Any], as_json: bool) -> None:
        """Write the results, the page and the figures, and print."""
        from erasekit.files import atomic_write_json, atomic_write_text
        from erasekit.observe.figures import plot_observation
        from erasekit.observe.findings import result_json
        from erasekit.observe.tables import observation_page, observation_tables

        data = {"observation": self.observation, "how": how, **result_json(result)}
        atomic_write_json(self.folder / RESULTS, {"schema": SCHEMA, **data})
        page = observation_page(TITLES[self.observation], result, how["command"])
        atomic_write_text(self.folder / PAGE, page)
        plot_observation(result, self.folder)
        if as_json:
            print_json(data)
            return
        console = stdout()
        for table in observation_tables(result):
            console.print(table.rich(SHOWN))
            console.print()
        console.print(result.sentence, style="bold", markup=False)
        for remark in result.remarks:
            print_note(remark)
        files = ", ".join(str(self.folder / name) for name in (RESULTS, PAGE, *FIGURES))
        console.print(files, soft_wrap=True, style="dim", markup=False)


def checked_place(observation: str, what: str, output: Path | None, store: Path | None) -> Place:
    """Where to write, checked; touches nothing.

    Raises:
        OutputError: the folder has something else in it.
    """
    from erasekit.bench.store import RecordStore
    from erasekit.files import check_output_folder

    folder = output or RUNS / f"observe-{observation}-{slug(what)[:60]}"
    own = {RESULTS, PAGE, STORE, *FIGURES}
    holds = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    check_output_folder(folder, overwrite=holds <= own)
    earlier = folder / RESULTS
    if earlier.is_file() and f'"observation": "{observation}"' not in earlier.read_text("utf-8"):
        raise OutputError(
            f"The folder {str(folder)!r} holds another observation; name another with --output."
        )
    place = Place(observation, folder, store or folder / STORE)
    RecordStore(place.store)
    return place


def counting(bar: ProgressBar) -> Callable[[int], None]:
    """Shows on the bar how many images were drawn."""
    drawn = 0

    def count(images: int) -> None:
        nonlocal drawn
        drawn += images
        bar.status(f"{drawn} images drawn")

    return count


def _observer(bar: ProgressBar) -> Observer:
    from erasekit.bench.runner import Observer
    from erasekit.records import Cell

    class Bar(Observer):
        """Shows on the bar what the current cell is at."""

        def __init__(self) -> None:
            self.cell, self.images = "", 0

        def on_base(self, erased: str) -> None:
            self._begin(f"base, {erased}")

        def on_cell(self, cell: Cell) -> None:
            kept = cell.identity["erasure"]["erasure"]["keep"]
            beside = f" with {'+'.join(kept)} kept" if kept else ""
            self._begin(f"{cell.method}, {cell.erased}{beside}, seed {cell.seed}")

        def on_status(self, text: str) -> None:
            bar.status(f"{self.cell}: {text}")

        def on_images(self, count: int) -> None:
            self.images += count
            bar.status(f"{self.cell}: {self.images} images drawn")

        def on_record(self, record: Record) -> None:
            bar.advance()

        def _begin(self, cell: str) -> None:
            self.cell, self.images = cell, 0
            bar.status(cell)

    return Bar()

"""`erasekit observe`: the paper's three observations, one command each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli.console import SCHEMA, ProgressBar, print_json, print_note, progress, stdout
from erasekit.cli.options import (
    Device,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LoadedAs,
    MethodOption,
    ModelOption,
    OutputOption,
    RevisionOption,
    ScorerOption,
    SetOption,
    SuiteOption,
    chosen_model,
    opened,
    registry_of,
)
from erasekit.concepts import slug
from erasekit.errors import OutputError

if TYPE_CHECKING:
    from erasekit.bench.plan import Sweep
    from erasekit.bench.records import Record
    from erasekit.bench.runner import BenchmarkRunner, Observer, Plan
    from erasekit.bench.suite import Suite
    from erasekit.concepts import Erasure
    from erasekit.edits import Edit
    from erasekit.metrics.base import Scorer
    from erasekit.models.loading import LoadedModel
    from erasekit.observe.paired import Observation

RUNS = Path("runs")
RESULTS, PAGE, STORE = "results.json", "table.md", "store"
FIGURES = ("figure.png", "figure.svg")
TITLES = {
    "impact": "What erasing different concepts harms",
    "spectrum": "Where neutral concepts lie in the sensitivity spectrum",
    "preserve": "What keeping different concepts saves",
}

EraseOption = Annotated[
    list[str],
    typer.Option("--erase", help="What to erase; a plus erases together, as in church+castle."),
]
SeedsOption = Annotated[
    int | None, typer.Option(help="Erasure seeds [default: the suite's].", show_default=False)
]
ImagesOption = Annotated[
    int | None,
    typer.Option(
        "--images-per-concept",
        help="Starting noises per concept [default: the suite's].",
        show_default=False,
    ),
]
StepsOption = Annotated[
    int | None, typer.Option(help="Solver steps of an image [default: the model's own].")
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Folder of records, one of `bench` will do; what is in it is not computed again "
        "[default: store/ in the output folder].",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Reproduce the paper's three observations: a table, a figure, and a sentence that "
        "says whether it held.",
    )
    for command in (impact, spectrum, preserve):
        group.command(command.__name__)(command)
    app.add_typer(group, name="observe", rich_help_panel="Measure")


def impact(
    context: typer.Context,
    erase: EraseOption,
    related: Annotated[
        list[str] | None,
        typer.Option(
            "--related",
            help='Concepts related to an erasure, as in "nudity=woman,man" [default: its family].',
            show_default=False,
        ),
    ] = None,
    method: MethodOption = "none",
    suite: SuiteOption = "icons-mini",
    seeds: SeedsOption = None,
    images_per_concept: ImagesOption = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = LoadedAs.FP32,
    scorer: ScorerOption = None,
    sampling_steps: StepsOption = None,
    assignments: SetOption = None,
    output: OutputOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Observation 1: erasing different concepts harms different concepts.

    Erases each with the method, `none` by default: it keeps nothing, so that what is seen is the
    erasure's own doing. delta of every concept, the erasures side by side at the same noise. It
    held where what is related to an erasure is harmed more by it than by the other, both ways.
    """
    from erasekit.bench.plan import parse_erased_sets, words_kept
    from erasekit.observe.impact import check_sets, related_names
    from erasekit.observe.impact import impact as compare
    from erasekit.observe.paired import common_suite, measured, settings_of

    check_sets(erase)
    from erasekit.config import parse_assignments

    settings = parse_assignments(assignments or [])
    place = checked_place("impact", "-".join(erase), output, store)
    with opened(
        chosen_model(model, revision=revision), registry_of(context), device=device, dtype=dtype
    ) as loaded:
        b = Bench.of(loaded, suite, seeds, images_per_concept, scorer, sampling_steps)
        b.model.registry.method(method)
        erasures = parse_erased_sets(erase, b.model)
        names = related_names(related or [], erasures, b.suite)
        wanted = common_suite(b.suite, erasures, [n for own in names.values() for n in own])
        sweep = b.sweep(wanted, method, erasures, settings)
        with b.runner(place.store) as runner:
            records = measured(runner, sweep)
        resolved = settings_of(records)[method]
        kept = words_kept(method, resolved, erasures[0], b.model)
        result = compare(records, wanted, erasures, names, keeps=bool(kept))
        how = b.how(wanted, records)
    place.finish(result, how, as_json)


def preserve(
    context: typer.Context,
    erase: Annotated[str, typer.Option("--erase", help="What to erase; a plus erases together.")],
    keep: Annotated[
        list[str],
        typer.Option("--keep", help="What to keep, an erasure each; a plus keeps together."),
    ],
    related: Annotated[
        list[str] | None,
        typer.Option(
            "--related",
            help="Which of the kept is related to the erased [default: the nearest one in the "
            "text encoder].",
            show_default=False,
        ),
    ] = None,
    method: MethodOption = "random",
    suite: SuiteOption = "icons-mini",
    seeds: SeedsOption = None,
    images_per_concept: ImagesOption = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = LoadedAs.FP32,
    scorer: ScorerOption = None,
    sampling_steps: StepsOption = None,
    assignments: SetOption = None,
    output: OutputOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Observation 3: keeping a related concept lowers mean delta more than keeping another.

    The same erasure once for every --keep, and once by `none`, which keeps nothing. The method is
    `random` by default: with one word to draw from it keeps that word in every step. Mean delta
    is over held-out concepts that none of the erasures keeps.
    """
    from erasekit.bench.plan import parse_erased_sets
    from erasekit.observe.paired import common_suite
    from erasekit.observe.preserve import (
        held_out_names,
        kept_sets,
        natures_of,
        run_preserve,
        similarities_to,
    )
    from erasekit.observe.preserve import preserve as compare

    sets = kept_sets(keep)
    from erasekit.config import parse_assignments

    settings = parse_assignments(assignments or [])
    place = checked_place("preserve", "-".join([erase, *keep]), output, store)
    with opened(
        chosen_model(model, revision=revision), registry_of(context), device=device, dtype=dtype
    ) as loaded:
        b = Bench.of(loaded, suite, seeds, images_per_concept, scorer, sampling_steps)
        (erasure,) = parse_erased_sets([erase], b.model)
        similarities = similarities_to(b.model, erasure, sets)
        natures = natures_of(sets, similarities, related or [])
        wanted = common_suite(b.suite, [erasure])
        held_out_names(wanted, [word for words in sets for word in words])
        sweep = b.sweep(wanted, method, (erasure,), settings)
        with b.runner(place.store) as runner:
            records = run_preserve(runner, sweep, sets)
        result = compare(records, wanted, natures, similarities)
        how = b.how(wanted, records)
    place.finish(result, how, as_json)


def spectrum(
    context: typer.Context,
    edit: Annotated[Path, typer.Option("--edit", "-e", help="Run folder of an erasure.")],
    words: Annotated[
        str,
        typer.Option(
            help="Source of the words: a registered concept space, or a file with one word a line "
            "[default: what the model is known to draw, else its concept space].",
            show_default=False,
        ),
    ] = "",
    neutral: Annotated[
        list[str] | None,
        typer.Option(
            "--neutral",
            help='Neutral concepts [default: "", a photo, an image, a picture].',
            show_default=False,
        ),
    ] = None,
    probes: Annotated[
        int,
        typer.Option(
            min=1, help="Points that a sensitivity is the mean of, two noises per timestep."
        ),
    ] = 16,
    sample: Annotated[
        int, typer.Option(min=1, help="Words along the spectrum whose images are drawn.")
    ] = 24,
    suite: SuiteOption = "icons-mini",
    images_per_concept: ImagesOption = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = LoadedAs.FP32,
    scorer: ScorerOption = None,
    sampling_steps: StepsOption = None,
    output: OutputOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Observation 2: neutral concepts lie in the middle of the sensitivity spectrum.

    A word's sensitivity is the mean squared change of the noise prediction for it, at noises and
    timesteps that all words share: 2 UNet passes a word and probe, and no images. A sample along
    the spectrum is drawn too, to see how well sensitivity ranks words by their delta.
    """
    from erasekit.bench.store import RecordStore
    from erasekit.bench.suites import NEUTRAL
    from erasekit.edits import load_edit
    from erasekit.observe.spectrum import spectrum as measure
    from erasekit.observe.spectrum import spectrum_words

    found = load_edit(edit, registry_of(context))
    place = checked_place("spectrum", "-".join(found.info["concepts"]), output, store)
    with opened(
        chosen_model(model, found, revision), registry_of(context), device=device, dtype=dtype
    ) as loaded:
        b = Bench.of(loaded, suite, None, images_per_concept, scorer, sampling_steps)
        chosen = spectrum_words(b.model, found, b.model.registry, words, neutral or NEUTRAL)
        with progress("Measuring words", len(chosen.all)) as bar:
            result = measure(
                b.model,
                found,
                b.scorer,
                RecordStore(place.store),
                b.suite,
                chosen,
                probes=probes,
                sample=sample,
                on_words=bar.advance,
                on_images=counting(bar),
            )
        how = {**b.how(b.suite, []), "edit": _edit_how(edit, found), "words": words or None}
    place.finish(result, how, as_json)


def _edit_how(folder: Path, edit: Edit) -> dict[str, Any]:
    return {"run": str(folder), **{k: edit.info.get(k) for k in ("method", "seed", "config")}}


@dataclass
class Bench:
    """A model with its suite and scorer."""

    model: LoadedModel
    suite: Suite
    scorer: Scorer

    @staticmethod
    def of(
        model: LoadedModel,
        suite: str,
        seeds: int | None,
        images: int | None,
        scorer: str | None,
        sampling_steps: int | None,
    ) -> Bench:
        """A model with the suite at the scale asked for, and the scorer.

        Raises:
            ConfigError: a number that is not positive, or a file that is no suite.
            ModelError: the scorer can't be had.
            UnknownNameError: an unknown suite or scorer.
        """
        from erasekit.bench.plan import completed
        from erasekit.bench.suite_file import load_suite
        from erasekit.metrics.judges import load_scorer

        registry = model.registry
        scaled = load_suite(suite, registry, model.descriptor).scaled(
            images_per_concept=images,
            images_per_erased=images,
            seeds=seeds,
            num_inference_steps=sampling_steps,
        )
        name = scorer or scaled.scorer or model.descriptor.scorer
        judge = load_scorer(name, registry, device=model.family.device)
        scaled = completed(scaled, model)
        return Bench(model, scaled.fitting(model.family.check_prompt), judge)

    def sweep(
        self, suite: Suite, method: str, erasures: tuple[Erasure, ...], settings: dict[str, str]
    ) -> Sweep:
        """What is to run: one method on `erasures`, with the suite's number of seeds."""
        from erasekit.bench.plan import Sweep

        return Sweep(suite, (method,), erasures, tuple(range(suite.seeds)), settings)

    @contextmanager
    def runner(self, store: Path) -> Iterator[BenchmarkRunner]:
        """A runner on this store, which shows on a progress bar what it is at."""
        from erasekit.bench.runner import BenchmarkRunner
        from erasekit.bench.store import RecordStore

        with progress("Observing") as bar:
            yield BenchmarkRunner(self.model, self.scorer, RecordStore(store), _observer(bar))

    def how(self, suite: Suite, records: Sequence[Record]) -> dict[str, Any]:
        """How the numbers were made, but for what only the command knows."""
        from erasekit.bench.plan import generation_identity
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


@dataclass(frozen=True)
class Place:
    """Where an observation goes."""

    observation: str
    folder: Path
    store: Path

    def finish(self, result: Observation, how: dict[str, Any], as_json: bool) -> None:
        """Write the results, the page and the figures, and print."""
        from erasekit.files import atomic_write_json, atomic_write_text
        from erasekit.observe.paired import observation_page, plot_observation, result_json

        data = {"observation": self.observation, "how": how, **result_json(result)}
        atomic_write_json(self.folder / RESULTS, {"schema": SCHEMA, **data})
        page = observation_page(TITLES[self.observation], result, how["command"])
        atomic_write_text(self.folder / PAGE, page)
        plot_observation(result, self.folder)
        if as_json:
            print_json(data)
            return
        console = stdout()
        for table in result.tables():
            console.print(table)
            console.print()
        console.print(result.sentence, style="bold")
        for remark in result.remarks:
            print_note(remark)
        files = ", ".join(str(self.folder / name) for name in (RESULTS, PAGE, *FIGURES))
        console.print(files, soft_wrap=True, style="dim")


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
    from erasekit.bench.records import Cell
    from erasekit.bench.runner import Observer

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

        def on_plan(self, plan: Plan) -> None:
            bar.expect(len(plan.missing))

        def _begin(self, cell: str) -> None:
            self.cell, self.images = cell, 0
            bar.status(cell)

    return Bar()

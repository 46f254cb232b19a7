"""`erasekit observe`: the paper's three observations, one command each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from erasekit.cli.console import SCHEMA, ProgressBar, print_json, print_note, stdout
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
from erasekit.concepts import normalised, slug
from erasekit.errors import OutputError

if TYPE_CHECKING:
    from erasekit.bench.records import Record
    from erasekit.bench.runner import BenchmarkRunner
    from erasekit.bench.store import RecordStore
    from erasekit.bench.suite import Suite
    from erasekit.edits import Edit
    from erasekit.metrics.base import Scorer
    from erasekit.models.loading import LoadedModel
    from erasekit.observe.observation import Observation

RUNS = Path("runs")
RESULTS, PAGE, STORE = "results.json", "table.md", "store"
TITLES = {
    "impact": "What erasing different concepts harms",
    "spectrum": "Where neutral concepts lie in the sensitivity spectrum",
    "preserve": "What keeping different concepts saves",
}

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


@dataclass
class Shared:
    """Options of all three commands."""

    suite: SuiteOption = "icons-mini"
    images_per_concept: ImagesOption = None
    model: ModelOption = None
    revision: RevisionOption = None
    device: DeviceOption = Device.AUTO
    dtype: DtypeOption = LoadedAs.FP32
    scorer: ScorerOption = None
    sampling_steps: StepsOption = None
    output: OutputOption = None
    store: StoreOption = None
    as_json: JsonOption = False


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of `Shared` as options, in place of its parameter `shared`."""

    @wraps(command)
    def called(**given: Any) -> None:
        shared = Shared(**{field.name: given.pop(field.name) for field in fields(Shared)})
        command(**given, shared=shared)

    hints = get_type_hints(Shared, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = inspect.signature(command, eval_str=True).parameters.values()
    options = [
        *(parameter.replace(kind=keyword) for parameter in own if parameter.name != "shared"),
        *(
            inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name])
            for f in fields(Shared)
        ),
    ]
    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return called


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Reproduce the paper's three observations: a table, a figure, and a sentence that "
        "says whether it held.",
    )
    for command in (impact, spectrum, preserve):
        group.command(command.__name__)(with_shared(command))
    app.add_typer(group, name="observe", rich_help_panel="Measure")


def impact(
    context: typer.Context,
    erase: Annotated[
        list[str],
        typer.Option("--erase", help="What to erase; a plus erases together, as in church+castle."),
    ],
    related: Annotated[
        list[str] | None,
        typer.Option(
            "--related",
            help='Concepts related to an erasure, as in "nudity=woman,man" [default: its family].',
            show_default=False,
        ),
    ] = None,
    method: MethodOption = "none",
    seeds: SeedsOption = None,
    assignments: SetOption = None,
    *,
    shared: Shared,
) -> None:
    """Observation 1: erasing different concepts harms different concepts.

    Erases each with the method, `none` by default: it keeps nothing, so that what is seen is the
    erasure's own doing. delta of every concept, the erasures side by side at the same noise. It
    held where what is related to an erasure is harmed more by it than by the other, both ways.
    """
    from erasekit.bench.plan import Sweep, parse_erased_sets, words_kept
    from erasekit.cli.bench import watched
    from erasekit.config import parse_assignments
    from erasekit.observe.impact import impact, related_names
    from erasekit.observe.observation import common_suite, compared, measured, settings_of

    compared("--erase", erase, lambda words: frozenset(map(normalised, words)))
    settings = parse_assignments(assignments or [])
    registry_of(context).method(method)
    with observing(context, "impact", "-".join(erase), shared, seeds=seeds) as at:
        erasures = parse_erased_sets(erase, at.model)
        names = related_names(related or [], erasures, at.suite)
        suite = common_suite(at.suite, erasures, [n for own in names.values() for n in own])
        sweep = Sweep(suite, (method,), erasures, tuple(range(suite.seeds)), settings)
        records = measured(at.runner(), sweep, watched)
        kept = words_kept(method, settings_of(records)[method], erasures[0], at.model)
        at.finish(impact(records, suite, erasures, names, keeps=bool(kept)), suite, records)


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
    seeds: SeedsOption = None,
    assignments: SetOption = None,
    *,
    shared: Shared,
) -> None:
    """Observation 3: keeping a related concept lowers mean delta more than keeping another.

    The same erasure once for every --keep, and once by `none`, which keeps nothing. The method is
    `random` by default: with one word to draw from it keeps that word in every step. Mean delta
    is over held-out concepts that none of the erasures keeps.
    """
    from erasekit.bench.plan import Sweep, parse_erased_sets
    from erasekit.cli.bench import watched
    from erasekit.config import parse_assignments
    from erasekit.observe.observation import common_suite, compared
    from erasekit.observe.preserve import (
        held_out_names,
        natures_of,
        preserve,
        run_preserve,
        similarities_to,
    )

    sets = compared("--keep", keep)
    settings = parse_assignments(assignments or [])
    with observing(context, "preserve", "-".join([erase, *keep]), shared, seeds=seeds) as at:
        (erasure,) = parse_erased_sets([erase], at.model)
        similarities = similarities_to(at.model, erasure, sets)
        natures = natures_of(sets, similarities, related or [])
        suite = common_suite(at.suite, [erasure])
        held_out_names(suite, [word for words in sets for word in words])
        sweep = Sweep(suite, (method,), (erasure,), tuple(range(suite.seeds)), settings)
        records = run_preserve(at.runner(), sweep, sets, watched)
        at.finish(preserve(records, suite, natures, similarities), suite, records)


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
    *,
    shared: Shared,
) -> None:
    """Observation 2: neutral concepts lie in the middle of the sensitivity spectrum.

    A word's sensitivity is the mean squared change of the noise prediction for it, at noises and
    timesteps that all words share: 2 UNet passes a word and probe, and no images. A sample along
    the spectrum is drawn too, to see how well sensitivity ranks words by their delta.
    """
    from erasekit.bench.suites import NEUTRAL
    from erasekit.edits import load_edit
    from erasekit.observe.spectrum import spectrum, spectrum_words

    found = load_edit(edit, registry_of(context))
    what = "-".join(found.info["concepts"])
    with observing(context, "spectrum", what, shared, edit=found) as at:
        chosen = spectrum_words(at.model, found, words, neutral or NEUTRAL)
        with ProgressBar("Measuring words", len(chosen.all)) as bar:
            result = spectrum(
                at.model,
                found,
                at.scorer,
                at.store,
                at.suite,
                chosen,
                probes=probes,
                sample=sample,
                on_words=bar.advance,
                on_images=counting(bar),
            )
        made = {key: found.info.get(key) for key in ("method", "seed", "config")}
        source = {"edit": {"run": str(edit), **made}, "words": words or None}
        at.finish(result, at.suite, [], **source)


@dataclass
class Session:
    """An observation at work: an open model, its suite and scorer, and where results go."""

    observation: str
    folder: Path
    store: RecordStore
    as_json: bool
    model: LoadedModel
    suite: Suite
    scorer: Scorer

    def runner(self) -> BenchmarkRunner:
        """A runner on the store."""
        from erasekit.bench.runner import BenchmarkRunner

        return BenchmarkRunner(self.model, self.scorer, self.store)

    def finish(
        self, result: Observation, suite: Suite, records: Sequence[Record], **more: Any
    ) -> None:
        """Write results, page and figures, and print; `more` says how they were made."""
        from erasekit.bench.plan import generation_identity
        from erasekit.files import atomic_write_json, atomic_write_text
        from erasekit.observe.observation import (
            FIGURES,
            observation_page,
            plot_observation,
            result_json,
            settings_of,
        )
        from erasekit.training.run_folder import command, versions

        how = {
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
            **more,
        }
        data = {"observation": self.observation, "how": how, **result_json(result)}
        atomic_write_json(self.folder / RESULTS, {"schema": SCHEMA, **data})
        page = observation_page(TITLES[self.observation], result, command())
        atomic_write_text(self.folder / PAGE, page)
        plot_observation(result, self.folder)
        if self.as_json:
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


@contextmanager
def observing(
    context: typer.Context,
    observation: str,
    what: str,
    shared: Shared,
    *,
    edit: Edit | None = None,
    seeds: int | None = None,
) -> Iterator[Session]:
    """The model and the suite at the scale asked for; writes nothing yet.

    Raises:
        ConfigError: a number that is not positive, or a file that is no suite.
        ModelError: the model or the scorer can't be had.
        OutputError: the folder has something else in it.
        UnknownNameError: an unknown suite or scorer.
    """
    from erasekit.bench.plan import completed
    from erasekit.bench.store import RecordStore
    from erasekit.bench.suite_file import load_suite
    from erasekit.metrics.judges import load_scorer

    folder = shared.output or RUNS / f"observe-{observation}-{slug(what)[:60]}"
    _check_folder(folder, observation)
    store = RecordStore(shared.store or folder / STORE)
    name, registry = chosen_model(shared.model, edit, shared.revision), registry_of(context)
    with opened(name, registry, device=shared.device, dtype=shared.dtype) as model:
        scaled = load_suite(shared.suite, model.registry, model.descriptor).scaled(
            images_per_concept=shared.images_per_concept,
            images_per_erased=shared.images_per_concept,
            seeds=seeds,
            num_inference_steps=shared.sampling_steps,
        )
        judge = shared.scorer or scaled.scorer or model.descriptor.scorer
        scorer = load_scorer(judge, model.registry, device=model.family.device)
        suite = completed(scaled, model).fitting(model.family.check_prompt)
        yield Session(observation, folder, store, shared.as_json, model, suite, scorer)


def _check_folder(folder: Path, observation: str) -> None:
    from erasekit.files import check_output_folder
    from erasekit.observe.observation import FIGURES

    holds = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    check_output_folder(folder, overwrite=holds <= {RESULTS, PAGE, STORE, *FIGURES})
    earlier = folder / RESULTS
    if earlier.is_file() and f'"observation": "{observation}"' not in earlier.read_text("utf-8"):
        raise OutputError(
            f"The folder {str(folder)!r} holds another observation; name another with --output."
        )


def counting(bar: ProgressBar) -> Callable[[int], None]:
    """Shows on the bar how many images were drawn."""
    drawn = 0

    def count(images: int) -> None:
        nonlocal drawn
        drawn += images
        bar.status(f"{drawn} images drawn")

    return count

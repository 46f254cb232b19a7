"""`erasekit observe`: the paper's three observations, one command each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli.context import (
    DEVICE_OPTION,
    DTYPE_OPTION,
    JSON_OPTION,
    MODEL_HELP,
    REVISION_OPTION,
    LoadedAs,
    registry_of,
)
from erasekit.cli.loading import chosen_model
from erasekit.cli.output import progress
from erasekit.config import parse_assignments
from erasekit.observe.command_options import Loading, checked_place, counting, opened_bench
from erasekit.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from erasekit.edits import Edit

EraseOption = Annotated[
    list[str],
    typer.Option("--erase", help="What to erase; a plus erases together, as in church+castle."),
]
SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        "-s",
        help="Where the concepts that are evaluated come from: a name of `erasekit suites`, or a "
        "TOML file.",
    ),
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
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)]
RevisionOption = Annotated[str | None, REVISION_OPTION]
DeviceOption = Annotated[str, DEVICE_OPTION]
DtypeOption = Annotated[LoadedAs, DTYPE_OPTION]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        help="A registered scorer, MODEL/TAG or MODEL/FILE of open_clip, or local-dir:FOLDER."
    ),
]
StepsOption = Annotated[
    int | None, typer.Option(help="Solver steps of an image [default: the model's own].")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A hyperparameter of the method, KEY=VALUE.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the results [default: one in runs/]."),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Folder of records, one of `bench` will do; what is in it is not computed again "
        "[default: store/ in the output folder].",
    ),
]
JsonOption = Annotated[bool, JSON_OPTION]


@hookimpl
def erasekit_register_commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Reproduce the paper's three observations: a table, a figure, and a sentence that "
        "says whether it held.",
    )
    for command in (impact, spectrum, preserve):
        group.command(command.__name__)(command)
    app.add_typer(group, name="observe")


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
    method: Annotated[str, typer.Option(help="The method that erases.")] = "none",
    suite: SuiteOption = "icons-mini",
    seeds: SeedsOption = None,
    images_per_concept: ImagesOption = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = "auto",
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
    from erasekit.bench.cases import parse_case
    from erasekit.bench.sweep import words_kept
    from erasekit.observe.impact import check_sets, related_names
    from erasekit.observe.impact import impact as compare
    from erasekit.observe.paired import common_suite, measured, settings_of

    check_sets(erase)
    settings = parse_assignments(assignments or [])
    place = checked_place("impact", "-".join(erase), output, store)
    loading = Loading(chosen_model(model, revision=revision), device, dtype)
    with opened_bench(
        context, suite, seeds, images_per_concept, loading, scorer, sampling_steps
    ) as b:
        b.registry.method(method)
        erasures = tuple(parse_case(text, b.model) for text in erase)
        names = related_names(related or [], erasures, b.suite)
        wanted = common_suite(b.suite, erasures, [n for own in names.values() for n in own])
        sweep = b.sweep(wanted, method, erasures, settings)
        with b.runner(place.store) as runner:
            records = measured(runner, sweep)
        resolved = settings_of(records)[method]
        kept = words_kept(method, resolved, erasures[0], b.model, b.registry)
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
    method: Annotated[
        str, typer.Option(help="The method that keeps: random, nearest, gumbel or argmax.")
    ] = "random",
    suite: SuiteOption = "icons-mini",
    seeds: SeedsOption = None,
    images_per_concept: ImagesOption = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = "auto",
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
    from erasekit.bench.cases import parse_case
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
    settings = parse_assignments(assignments or [])
    place = checked_place("preserve", "-".join([erase, *keep]), output, store)
    loading = Loading(chosen_model(model, revision=revision), device, dtype)
    with opened_bench(
        context, suite, seeds, images_per_concept, loading, scorer, sampling_steps
    ) as b:
        erasure = parse_case(erase, b.model)
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
    device: DeviceOption = "auto",
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
    from erasekit.bench.suites.neutral import NEUTRAL
    from erasekit.edits import load_edit
    from erasekit.observe.spectrum import spectrum as measure
    from erasekit.observe.spectrum import spectrum_words

    found = load_edit(edit, registry_of(context))
    place = checked_place("spectrum", "-".join(found.info["concepts"]), output, store)
    loading = Loading(chosen_model(model, found, revision), device, dtype)
    with opened_bench(
        context, suite, None, images_per_concept, loading, scorer, sampling_steps
    ) as b:
        chosen = spectrum_words(b.model, found, b.registry, words, neutral or NEUTRAL)
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

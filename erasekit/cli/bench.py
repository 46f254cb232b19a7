"""`erasekit bench`: methods side by side on a suite, and what each costs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli.bench_forecast import forecast_json, forecast_sentence
from erasekit.cli.bench_progress import watched
from erasekit.cli.bench_runs import export, show, status
from erasekit.cli.context import (
    DEVICE_OPTION,
    DTYPE_OPTION,
    JSON_OPTION,
    MODEL_HELP,
    REVISION_OPTION,
    LoadedAs,
    registry_of,
)
from erasekit.cli.loading import chosen_model, opened
from erasekit.cli.output import print_json, print_note, stderr, stdout
from erasekit.concepts import slug
from erasekit.config import parse_assignments
from erasekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from erasekit.bench.plan import Sweep
    from erasekit.bench.records import Record, Summary
    from erasekit.bench.runner import Plan
    from erasekit.bench.store import RecordStore
    from erasekit.bench.suite import Suite
    from erasekit.metrics.judges import Judges
    from erasekit.models.loading import LoadedModel


class LongPrompts(StrEnum):
    """What becomes of a prompt that is too long."""

    CUT = "cut"
    SKIP = "skip"


RUNS = Path("runs")
RESULTS, FIGURE = "bench.json", "pareto"
SOME_FAILED = 1
"""Exit code of a sweep that went through with failed cells."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    group = typer.Typer()
    group.callback(invoke_without_command=True)(bench)
    for command in (status, show, export):
        group.command(command.__name__)(command)
    app.add_typer(group, name="bench")


def bench(
    context: typer.Context,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            "-s",
            help="What is erased, drawn and scored: a name of `erasekit suites`, or a TOML file.",
        ),
    ] = "icons-mini",
    full: Annotated[
        bool, typer.Option("--full", help="The suite's full protocol, however long it takes.")
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, separated by commas [default: the suite's].", show_default=False
        ),
    ] = None,
    concepts: Annotated[
        str | None,
        typer.Option(
            help="What to erase: a comma separates erased sets, a plus erases together, double "
            "quotes protect both; or a .txt file, an erased set a line [default: the suite's]."
        ),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(
            "--concept",
            help="One erased set; a plus erases together. Give it as often as you like.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Erasure seeds per method and case [default: the suite's].")
    ] = None,
    images_per_concept: Annotated[
        int | None,
        typer.Option(help="Starting noises per concept, erased or kept [default: the suite's]."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    revision: Annotated[str | None, REVISION_OPTION] = None,
    device: Annotated[str, DEVICE_OPTION] = "auto",
    dtype: Annotated[LoadedAs, DTYPE_OPTION] = LoadedAs.FP32,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="A registered scorer, MODEL/TAG or MODEL/FILE of open_clip, or local-dir:FOLDER."
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="What ESR and PSR go by: a registered classifier, or a scorer "
            "[default: the suite's, or the scorer where its weights are not at hand]."
        ),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(help="Further measures, separated by commas, or none [default: the suite's]."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Further prompts to draw: .csv, .tsv or .jsonl with a column prompt, .txt with a "
            "prompt a line, or AIML-TUDA/i2p."
        ),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            help="Captions to draw for CLIP score and FID: a file as of --prompts with a column "
            "caption, or COCO's captions_val2014.json."
        ),
    ] = None,
    long_prompts: Annotated[
        LongPrompts | None,
        typer.Option(
            help="Prompts and captions with more tokens than the text encoder takes: cut them, "
            "as diffusers does, or skip them [default: the suite's, cut].",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images that FID holds others against [default: the base model's]."
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="A judge's weights, NAME=FILE.safetensors, as in resnet50=FILE."),
    ] = None,
    sampling_steps: Annotated[
        int | None, typer.Option(help="Solver steps of an image [default: the model's own].")
    ] = None,
    along: Annotated[
        str | None,
        typer.Option(
            help="Fractions of a run after which it is drawn and scored too, as in "
            "0.25,0.5,0.75: it gives delta at matched erasure [default: the suite's].",
            show_default=False,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="A hyperparameter, KEY=VALUE, for the methods that have it."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of records; what is in it is not computed again "
            "[default: runs/bench-SUITE].",
        ),
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Run cells that failed before again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and what it would take, and stop.")
    ] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Erase, draw before and after at the same noise, score, and compare methods.

    Finished cells are kept in the output folder: the same command again computes nothing, and
    one more method or seed computes that one only.
    """
    if context.invoked_subcommand:
        return
    from erasekit.bench.forecast import forecast
    from erasekit.bench.plan import typed_cases
    from erasekit.bench.prompts import with_prompts
    from erasekit.bench.runner import BenchmarkRunner
    from erasekit.bench.store import RecordStore
    from erasekit.bench.suite_file import SUFFIX, load_suite
    from erasekit.bench.summary import load_metrics, summarise_stored, summary_json
    from erasekit.metrics.judges import load_judges

    registry = registry_of(context)
    if not suite.endswith(SUFFIX):
        registry.suite(suite)
    settings = parse_assignments(assignments or [])
    chosen = _names(methods) if methods is not None else None
    for name in chosen or ():
        registry.method(name)
    cases = typed_cases(concepts, concept or [])
    files = parse_assignments(weights or [], "--weights resnet50=FILE.safetensors")
    folder = output or RUNS / f"bench-{slug(Path(suite).stem)}"
    store = RecordStore(folder)
    name = chosen_model(model, revision=revision)
    with opened(name, registry, device=device, dtype=dtype) as loaded:
        scaled = load_suite(suite, registry, loaded.descriptor, full=full).scaled(
            images_per_concept=images_per_concept,
            images_per_erased=images_per_concept,
            seeds=seeds,
            num_inference_steps=sampling_steps,
            along=None if along is None else _fractions(along),
            long_prompts=None if long_prompts is None else long_prompts.value,
        )
        load_metrics(scaled.metrics, registry)
        scaled = with_prompts(scaled, prompts, captions, loaded)
        sweep = _sweep(scaled, loaded, chosen, cases, settings)
        judges = load_judges(
            registry,
            scorer or scaled.scorer or loaded.descriptor.scorer,
            classifier=classifier or "",
            preferred=scaled.classifier,
            measures=scaled.measures if measures is None else _measures(measures),
            optional=scaled.optional_measures if measures is None else (),
            files=files,
            reference=str(reference or ""),
            device=loaded.family.device,
        )
        if judges.sets and not scaled.captions:
            raise ConfigError(
                f"The measure {judges.sets[0].name!r} is of captions' images, and the suite "
                f"{scaled.name!r} has no captions; name a file with --captions."
            )
        if scaled.probes and not judges.measures:
            print_note(
                "The prompts of --prompts are drawn, but no measure looks at them; add one with "
                "--measures, such as nudenet."
            )
        runner = BenchmarkRunner(loaded, judges, store)
        plan = runner.plan(sweep, retry_failed=retry_failed)
        for sentence in (*judges.left_out, *scaled.remarks, *plan.remarks):
            print_note(sentence)
        told = forecast(runner, scaled, plan) if dry_run else None
        if dry_run and as_json:
            print_json(
                {"plan": {**_plan_json(plan, sweep, folder), "estimate": forecast_json(told)}}
            )
            return
        _announce(plan, sweep, loaded, judges, folder, dry_run)
        if dry_run:
            stdout().print(forecast_sentence(told), markup=False)
            return
        with watched(runner, plan):
            records = runner.run(sweep, plan)
    about = runner.manifest(sweep, plan).about
    summary = summarise_stored(records, about, registry)
    results = {**about, "store": str(folder), **summary_json(summary)}
    written = _save(store, results, summary, records)
    if as_json:
        print_json(results)
    else:
        _show(summary, about, folder, written)
    for failure in summary.failures:
        print_note(f"failed: {failure}")
    if summary.failures:
        print_note("--retry-failed runs failed cells again.")
        raise typer.Exit(SOME_FAILED)


def _measures(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(part.strip() for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ConfigError(f"--methods {text!r} has an empty name; write it as in none,gumbel.")
    return names


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--along {text!r} is no list of numbers; write it as in 0.25,0.5,0.75."
        ) from error


def _sweep(
    suite: Suite,
    model: LoadedModel,
    methods: tuple[str, ...] | None,
    cases: list[str],
    settings: dict[str, str],
) -> Sweep:
    from erasekit.bench.plan import Sweep, parse_cases

    return Sweep(
        suite,
        methods or suite.methods,
        tuple(suite.typed(case) for case in parse_cases(cases or suite.cases, model)),
        tuple(range(suite.seeds)),
        settings,
    )


def _plan_json(plan: Plan, sweep: Sweep, folder: Path) -> dict[str, Any]:
    return {
        "suite": sweep.suite.name,
        "protocol": sweep.suite.protocol,
        "methods": list(sweep.methods),
        "cases": [case.label for case in sweep.cases],
        "seeds": len(sweep.seeds),
        "cells": len(plan.cells),
        "missing": len(plan.missing),
        "erasures": len(plan.erasures),
        "failed_before": len(plan.failed),
        "images": plan.images,
        "image_unet_passes": plan.image_passes,
        "erasure_unet_passes": plan.erasure_passes,
        "store": str(folder),
    }


def _announce(
    plan: Plan, sweep: Sweep, model: LoadedModel, judges: Judges, folder: Path, dry_run: bool
) -> None:
    """Say on standard error what is about to happen (on standard output for a dry run)."""
    from erasekit.reporting.bench_table import classes_by
    from erasekit.reporting.glossary import several

    console = stdout() if dry_run else stderr()
    suite, cases = sweep.suite, ", ".join(case.label for case in sweep.cases)
    full = "" if suite.protocol == "full" else " (the full one: --full, with no smaller numbers)"
    console.print(
        f"{suite.name} {suite.version} on {model.id}, {suite.protocol} protocol{full}: "
        f"{several(len(sweep.methods), 'method')} x {several(len(sweep.cases), 'erased set')} "
        f"({cases}) x {several(len(sweep.seeds), 'seed')}; {plan.cases[0].images} images after "
        f"each erasure, {suite.images_per_erased} of an erased concept and "
        f"{suite.images_per_concept} of a kept one. Alignment by {judges.scorer.name}, classes by "
        f"{classes_by(judges.identity)}.",
        markup=False,
    )
    passes = (
        f"{plan.erasure_passes:,} for erasing"
        if plan.erasure_passes is not None
        else "those of the erasures come on top (known after a first run)"
    )
    done = len(plan.cells) - len(plan.missing) - len(plan.failed)
    failed = f", {len(plan.failed)} failed before (--retry-failed)" if plan.failed else ""
    cells, erasures = several(len(plan.missing), "cell"), several(len(plan.erasures), "erasure")
    console.print(
        f"To do: {cells} with {erasures}, "
        f"{plan.images:,} images, UNet passes {plan.image_passes:,} for images, {passes}. "
        f"Done before: {several(done, 'cell')}{failed}. "
        f"Store: {folder}",
        markup=False,
    )


def _save(
    store: RecordStore, results: dict[str, Any], summary: Summary, records: Sequence[Record]
) -> list[Path]:
    """Write results, Pareto plot and a picture of each erased set beside the records."""
    from erasekit.cli.output import SCHEMA
    from erasekit.files import atomic_path, atomic_write_json
    from erasekit.reporting.pareto import save_pareto
    from erasekit.reporting.pictures import comparison_grid
    from erasekit.reporting.results import comparison_rows

    atomic_write_json(store.root / RESULTS, {"schema": SCHEMA, **results})
    files = [store.root / RESULTS, *save_pareto(summary, store.root / FIGURE)]
    for erased in dict.fromkeys(row.erased for row in summary.rows):
        methods, rows = comparison_rows(store, records, summary, erased)
        if rows:
            files.append(store.root / f"images-{slug(erased)[:60]}.png")
            with atomic_path(files[-1]) as temporary:
                comparison_grid(methods, rows).save(temporary, format="PNG")
    return files


def _show(summary: Summary, about: Mapping[str, Any], folder: Path, files: list[Path]) -> None:
    from erasekit.reporting.bench_table import bench_table

    console = stdout()
    console.print(bench_table(summary, about))
    console.print(
        f"{', '.join(map(str, files))}\nA page of it: erasekit report {folder}",
        soft_wrap=True,
        style="dim",
        markup=False,
    )

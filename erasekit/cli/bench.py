"""`erasekit bench`: methods side by side on a suite, and what each costs."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from erasekit.cli.bench_runs import duration, export, show, status
from erasekit.cli.console import (
    SCHEMA,
    ProgressBar,
    print_json,
    print_note,
    stderr,
    stdout,
    table,
)
from erasekit.cli.options import (
    MODEL_PANEL,
    OUTPUT_PANEL,
    Device,
    JsonOption,
    LoadedAs,
    ScorerOption,
    SuiteOption,
    chosen_model,
    opened,
    path_option,
    registry_of,
)
from erasekit.concepts import slug
from erasekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from erasekit.bench.forecast import Forecast
    from erasekit.bench.plan import Sweep
    from erasekit.bench.records import Cell, Record, Summary
    from erasekit.bench.runner import BenchmarkRunner, Observer, Plan
    from erasekit.bench.store import RecordStore
    from erasekit.metrics.judges import Judges
    from erasekit.models.loading import LoadedModel
    from erasekit.models.unet_passes import PassCount


LongPrompts = StrEnum("LongPrompts", {"CUT": "cut", "SKIP": "skip"})
"""What becomes of a prompt that is too long."""
WHAT_PANEL, DRAWN_PANEL, RARE_PANEL = "What is compared", "Prompts of your own", "Rarely needed"
RUNS = Path("runs")
RESULTS, FIGURE = "bench.json", "pareto"
PERIOD = 600.0
"""Seconds that the speed is averaged over, since one erasure and one batch differ."""
SOME_FAILED = 1
"""Exit code of a sweep that went through with failed cells."""


def register(app: typer.Typer) -> None:
    group = typer.Typer()
    group.callback(invoke_without_command=True)(bench)
    for command in (status, show, export):
        group.command(command.__name__)(command)
    app.add_typer(group, name="bench", rich_help_panel="Measure")


def _help_all(context: typer.Context, wanted: bool) -> None:
    """Show the help with the options that are rarely needed."""
    if wanted:
        for parameter in context.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(context.get_help())
        raise typer.Exit


def _option(help: str, *names: str, panel: str = WHAT_PANEL, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, rich_help_panel=panel, **more)


def _rare(help: str, *names: str) -> Any:
    """An option that --help-all alone shows; a suite file has most of them."""
    return _option(help, *names, panel=RARE_PANEL, hidden=True)


def bench(
    context: typer.Context,
    suite: SuiteOption = "icons-mini",
    methods: Annotated[str | None, _option("Separated by commas.")] = None,
    concepts: Annotated[
        str | None, _option("a,b+c is a, then b with c; quote names with a comma; or a .txt file.")
    ] = None,
    concept: Annotated[
        list[str] | None, _option("One erased set; again for another.", "--concept")
    ] = None,
    seeds: Annotated[int | None, _option("Erasure seeds of each method and set.")] = None,
    images_per_concept: Annotated[int | None, _option("Starting noises per concept.")] = None,
    full: Annotated[bool, _option("The full protocol, however long.", "--full")] = False,
    assignments: Annotated[
        list[str] | None, _option("KEY=VALUE for the methods that have it.", "--set")
    ] = None,
    attacks: Annotated[
        str | None, _option("Attacks on every edit, separated by commas; see `attacks`.")
    ] = None,
    scorer: ScorerOption = None,
    prompts: Annotated[
        str | None, _option(".csv, .tsv, .jsonl, .txt or AIML-TUDA/i2p.", panel=DRAWN_PANEL)
    ] = None,
    captions: Annotated[
        str | None, _option("The same, or COCO's JSON: CLIP score, FID.", panel=DRAWN_PANEL)
    ] = None,
    long_prompts: Annotated[
        LongPrompts | None, _option("Those beyond the text encoder's limit.", panel=DRAWN_PANEL)
    ] = None,
    classifier: Annotated[
        str | None, _rare("Ranks the classes of ESR and PSR [default: the suite's, or the scorer].")
    ] = None,
    measures: Annotated[
        str | None, _rare("Further ones, separated by commas, or none [default: the suite's].")
    ] = None,
    reference: Annotated[
        Path | None, _rare("Folder of images for FID [default: the base model's images].")
    ] = None,
    weights: Annotated[
        list[str] | None, _rare("A judge's weights, as in resnet50=FILE.safetensors.")
    ] = None,
    sampling_steps: Annotated[
        int | None, _rare("Solver steps of an image [default: the model's own].")
    ] = None,
    along: Annotated[
        str | None,
        _rare("Fractions of a run that are scored too, as in 0.25,0.5: delta at matched erasure."),
    ] = None,
    model: Annotated[
        str | None, _option("Name, hub id, folder or file.", "--model", "-m", panel=MODEL_PANEL)
    ] = None,
    revision: Annotated[str | None, _rare("Of a model on the hub.", "--revision")] = None,
    device: Annotated[Device, _option("", "--device", panel=MODEL_PANEL)] = Device.AUTO,
    dtype: Annotated[LoadedAs, _rare("What weights are loaded in.", "--dtype")] = LoadedAs.FP32,
    output: Annotated[
        Path | None, path_option("PATH", "Folder of records [default: runs/bench-SUITE].")
    ] = None,
    retry_failed: Annotated[
        bool, _option("Run failed cells again.", "--retry-failed", panel=OUTPUT_PANEL)
    ] = False,
    dry_run: Annotated[
        bool, _option("What would run, its time and disk.", "--dry-run", panel=OUTPUT_PANEL)
    ] = False,
    as_json: JsonOption = False,
    help_all: Annotated[
        bool,
        typer.Option("--help-all", is_eager=True, callback=_help_all, help="With rare options."),
    ] = False,
) -> None:
    """Erase, draw before and after at the same noise, score, and compare methods.

    Finished cells are kept in the output folder: the same command again computes nothing, and
    one more method or seed computes that one only. Defaults are the suite's.
    """
    if context.invoked_subcommand:
        return
    from erasekit.bench.forecast import forecast
    from erasekit.bench.plan import Sweep, judges_of, typed_sets
    from erasekit.bench.prompts import with_prompts
    from erasekit.bench.runner import BenchmarkRunner
    from erasekit.bench.store import RecordStore
    from erasekit.bench.suite_file import SUFFIX, load_suite
    from erasekit.bench.summary import load_metrics, summarise_stored, summary_json
    from erasekit.config import parse_assignments
    from erasekit.reporting.bench_table import bench_table

    registry = registry_of(context)
    if not suite.endswith(SUFFIX):
        registry.suite(suite)
    settings = parse_assignments(assignments or [])
    chosen = _names(methods) if methods is not None else None
    for name in chosen or ():
        registry.method(name)
    erased = typed_sets(concepts, concept or [])
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
            attacks=_names(attacks, "--attacks") if attacks else None,
        )
        load_metrics(scaled.metrics, registry)
        for attack in scaled.attacks:
            registry.attack(attack)
        scaled = with_prompts(scaled, prompts, captions, loaded)
        sweep = Sweep.of(scaled, loaded, chosen, erased, settings)
        judges = judges_of(
            scaled,
            loaded,
            scorer or "",
            measures=None if measures is None else _measures(measures),
            classifier=classifier or "",
            files=files,
            reference=str(reference or ""),
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
            print_json({"plan": _plan_json(plan, sweep, folder, told)})
            return
        _announce(plan, sweep, loaded, judges, folder, dry_run)
        if dry_run:
            _show_forecast(plan, told)
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
        stdout().print(bench_table(summary, about))
        stdout().print(
            f"{', '.join(map(str, written))}\nA page of it: erasekit report {folder}",
            soft_wrap=True,
            style="dim",
            markup=False,
        )
    for failure in summary.failures:
        print_note(f"failed: {failure}")
    if summary.failures:
        print_note("--retry-failed runs failed cells again.")
        raise typer.Exit(SOME_FAILED)


def _measures(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(part.strip() for part in text.split(","))


def _names(text: str, option: str = "--methods") -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ConfigError(f"{option} {text!r} has an empty name; separate names by single commas.")
    return names


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--along {text!r} is no list of numbers; write it as in 0.25,0.5,0.75."
        ) from error


def _plan_json(plan: Plan, sweep: Sweep, folder: Path, told: Forecast | None) -> dict[str, Any]:
    return {
        "suite": sweep.suite.name,
        "protocol": sweep.suite.protocol,
        "methods": list(sweep.methods),
        "cases": [erasure.label for erasure in sweep.erasures],
        "seeds": len(sweep.seeds),
        "cells": len(plan.cells),
        "missing": len(plan.missing),
        "erasures": len(plan.erasures),
        "failed_before": len(plan.failed),
        "images": plan.images,
        "image_unet_passes": plan.image_passes,
        "erasure_unet_passes": plan.erasure_passes,
        "store": str(folder),
        "estimate": told
        and {
            "seconds": told.seconds,
            "bytes": told.bytes,
            "erasure_unet_passes": round(plan.costs.total),
            "erasures_without_record": plan.costs.guessed,
            "images_per_second": told.images_per_second,
            "seconds_per_unet_pass": told.calibration.pass_seconds,
        },
    }


def _show_forecast(plan: Plan, forecast: Forecast | None) -> None:
    """What is to do by method, and what it would take on this machine."""
    if forecast is None:
        stdout().print("Nothing is missing.")
        return
    rows: list[tuple[Any, ...]] = []
    for method in dict.fromkeys(cell.cell.method for cell in plan.cells):
        own = [cell.cell.key for cell in plan.missing if cell.cell.method == method]
        passes = [plan.costs.passes[key] for key in own if key in plan.costs.passes]
        rows.append((method, len(own), len(passes), f"{sum(passes):,.0f}"))
    total = f"{plan.costs.total:,.0f}"
    rows.append(("all", len(plan.missing), len(plan.erasures), total))
    columns = ("method", "cells", "erasures", "UNet passes for erasing")
    stdout().print(table("To do", columns, rows, right=columns[1:]))
    speed = forecast.images_per_second
    found = [
        ("images to draw", f"{plan.images:,}"),
        ("UNet passes for images", f"{plan.image_passes:,}"),
        ("images per second", "-" if math.isnan(speed) else f"{speed:.3g}"),
        ("time", duration(forecast.seconds)),
        ("on disk", decimal(forecast.bytes)),
        ("erasures without one like it to go by", f"{plan.costs.guessed}"),
    ]
    here = ("on this machine, by a short calibration", "estimate")
    stdout().print(table("", here, found, right=here[1:]))


def _announce(
    plan: Plan, sweep: Sweep, model: LoadedModel, judges: Judges, folder: Path, dry_run: bool
) -> None:
    """Say on standard error what is about to happen (on standard output for a dry run)."""
    from erasekit.reporting.bench_table import classes_by
    from erasekit.reporting.glossary import several

    console = stdout() if dry_run else stderr()
    suite, erased = sweep.suite, ", ".join(erasure.label for erasure in sweep.erasures)
    images = plan.erased_sets[0].images
    full = "" if suite.protocol == "full" else " (--full runs the full one)"
    console.print(
        f"{suite.name} {suite.version} on {model.id}, {suite.protocol} protocol{full}: "
        f"{several(len(sweep.methods), 'method')} x {several(len(sweep.erasures), 'erased set')} "
        f"({erased}) x {several(len(sweep.seeds), 'seed')}; {images} images after "
        f"each erasure, {suite.images_per_erased} of an erased concept and "
        f"{suite.images_per_concept} of a kept one. Scorer {judges.scorer.name}, classifier "
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


@contextmanager
def watched(runner: BenchmarkRunner, plan: Plan) -> Iterator[None]:
    """For the block, show how far `runner` is with `plan`."""
    with ProgressBar("Bench", plan.image_passes + round(plan.costs.total), PERIOD) as bar:
        runner.observer = _observer(bar, runner.model.passes, len(plan.missing))
        yield


def _observer(bar: ProgressBar, passes: PassCount, cells: int) -> Observer:
    """Show on a bar of UNet passes how far a sweep is, with cells done and images a second."""
    from erasekit.bench.runner import Observer

    class Shown(Observer):
        def __init__(self) -> None:
            self.cell, self.done, self.images, self.drawing = "", 0, 0, 0.0
            self.counted, self.last = passes.cost, time.perf_counter()

        def on_base(self, erased: str) -> None:
            self.cell = f"base, {erased}"
            self.on_status("")

        def on_cell(self, cell: Cell) -> None:
            kept = "+".join(cell.identity["erasure"]["erasure"]["keep"])
            self.cell = f"{cell.name}, {kept} kept" if kept else cell.name
            self.on_status("")

        def on_status(self, text: str) -> None:
            self.last = time.perf_counter()
            bar.advance(passes.cost - self.counted)
            self.counted = passes.cost
            rate = f", {self.images / self.drawing:.1f} images/s" if self.drawing else ""
            at = f": {text}" if text else ""
            bar.status(f"{self.done}/{cells} cells{rate}, {self.cell}{at}")

        def on_images(self, count: int) -> None:
            self.images += count
            self.drawing += time.perf_counter() - self.last
            self.on_status("drawing")

        def on_record(self, record: Record) -> None:
            self.done += 1

    return Shown()


def _save(
    store: RecordStore, results: dict[str, Any], summary: Summary, records: Sequence[Record]
) -> list[Path]:
    """Write results, Pareto plot and a picture of each erased set beside the records."""
    from erasekit.files import atomic_write_json
    from erasekit.reporting.figures import save_pareto
    from erasekit.reporting.pictures import save_png, sheet
    from erasekit.reporting.results import comparison_rows

    atomic_write_json(store.root / RESULTS, {"schema": SCHEMA, **results})
    files = [store.root / RESULTS, *save_pareto(summary, store.root / FIGURE)]
    for erased in dict.fromkeys(row.erased for row in summary.rows):
        methods, rows = comparison_rows(store, records, summary, erased)
        if rows:
            files.append(store.root / f"images-{slug(erased)[:60]}.png")
            title = "the same noise in each row"
            save_png(files[-1], sheet(rows, headers=methods, title=title))
    return files

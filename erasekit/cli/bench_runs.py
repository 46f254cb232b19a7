"""`erasekit bench status|show|export`: what a store holds, from its records alone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from erasekit.cli.console import print_json, print_note, stdout, table
from erasekit.cli.options import JsonOption, registry_of
from erasekit.errors import ConfigError, UnknownNameError
from erasekit.plugin.registry import Registry

if TYPE_CHECKING:
    from erasekit.bench.records import Manifest, Record, Summary
    from erasekit.bench.store import RecordStore

SHORT = 8
"""Digits of a sweep's key in listings."""

_LACKING = {
    "methods": "cell that is done; run it",
    "concepts": "cell that is done; run it",
    "comparisons": "two methods to compare; run another one",
    "matched": "cell that was scored along its run; run it with --along",
    "matched-comparisons": "two methods that reach the same erasure; run them with --along",
}
"""Why a table can be empty, and what to do."""

RUN_ARGUMENT = typer.Argument(help="Folder of records, as `erasekit bench` wrote it.")
SWEEP_OPTION = typer.Option(
    "--sweep", help="Which of the folder's sweeps: the first digits of its key [default: the last]."
)


def status(folder: Annotated[Path, RUN_ARGUMENT], as_json: JsonOption = False) -> None:
    """How far the sweeps of a folder are, and what it takes on disk."""
    from erasekit.bench.store import open_store

    store = open_store(folder)
    sweeps = [_progress_of(store, manifest) for manifest in store.manifests()]
    used = _bytes_below(folder)
    if as_json:
        print_json({"store": str(folder), "bytes": used, "sweeps": sweeps})
        return
    counts = ("cells", "done", "failed", "claimed", "missing")
    rows = [
        (
            sweep["key"][:SHORT],
            sweep["started"][:16].replace("T", " "),
            f"{sweep['suite']} {sweep['suite_version']}",
            *(sweep[count] for count in counts),
        )
        for sweep in sweeps
    ]
    console = stdout()
    console.print(table(f"{folder}", ("sweep", "last run", "suite", *counts), rows, right=counts))
    for sweep in sweeps:
        for cell in sweep["running"]:
            who = f"process {cell['pid']} on {cell['host']} since {cell['since']}"
            console.print(f"{_name(cell)}: {who}", markup=False)
        for cell in sweep["failures"]:
            console.print(f"failed: {_name(cell)}: {cell['error']}", markup=False)
    console.print(f"{decimal(used)} on disk", style="dim")


def show(
    context: typer.Context,
    folder: Annotated[Path, RUN_ARGUMENT],
    sweep: Annotated[str | None, SWEEP_OPTION] = None,
    as_json: JsonOption = False,
) -> None:
    """The table of a sweep again, as far as it has come; no model is loaded."""
    from erasekit.bench.summary import summary_json
    from erasekit.reporting.bench_table import bench_table

    manifest, records, summary = _read(folder, sweep, registry_of(context))
    if as_json:
        print_json({**manifest.about, "store": str(folder), **summary_json(summary)})
        return
    about = manifest.about
    stdout().print(bench_table(summary, about))
    for sentence in about.get("left_out", ()):
        print_note(sentence)
    missing = len(manifest.cells) - sum(record.cell.method != "base" for record in records)
    if missing:
        print_note(f"{missing} of {len(manifest.cells)} cells are not there yet.")
    for failure in summary.failures:
        print_note(f"failed: {failure}")


def export(
    context: typer.Context,
    folder: Annotated[Path, RUN_ARGUMENT],
    form: Annotated[
        str, typer.Option("--to", help="One of csv, parquet, json, html, markdown, latex.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    what: Annotated[
        str,
        typer.Option(
            "--table",
            help="methods: a row per method and erased set; concepts: per concept; comparisons: "
            "per pair of methods; matched: at the same strength of erasure; matched-comparisons: "
            "per pair of methods there.",
        ),
    ] = "methods",
    sweep: Annotated[str | None, SWEEP_OPTION] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
) -> None:
    """Write a table of a sweep as CSV, Parquet, JSON, HTML, Markdown or LaTeX."""
    from erasekit.reporting.bench_table import TABLES, export_table
    from erasekit.reporting.table import FORMS

    for kind, name, known in (("form", form, FORMS), ("table", what, TABLES)):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    manifest, _, summary = _read(folder, sweep, registry_of(context))
    table = export_table(summary, what, manifest.about)
    if table is None:
        raise ConfigError(f"The sweep in {str(folder)!r} has no {_LACKING[what]} first.")
    if output.is_dir() or (output.exists() and not overwrite):
        raise ConfigError(f"{str(output)!r} exists; name another file or add --overwrite.")
    table.write(form, output)
    stdout().print(str(output), soft_wrap=True, markup=False)


def _read(
    folder: Path, sweep: str | None, registry: Registry
) -> tuple[Manifest, list[Record], Summary]:
    from erasekit.bench.store import open_store
    from erasekit.bench.summary import summarise_stored

    store = open_store(folder)
    manifests = store.manifests()
    found = [m for m in manifests if sweep is None or m.key.startswith(sweep)]
    if not found or (sweep is not None and len(found) > 1):
        raise UnknownNameError("sweep", sweep or "", [m.key[:SHORT] for m in manifests])
    records = store.records_of(found[-1])
    return found[-1], records, summarise_stored(records, found[-1].about, registry)


def _progress_of(store: RecordStore, manifest: Manifest) -> dict[str, Any]:
    running, failures, done = [], [], 0
    driver = store.driver()
    for cell in manifest.cells:
        named = {"method": cell.method, "erased": cell.erased, "seed": cell.seed}
        record = store.record(cell.key)
        if record is not None and record.status == "done":
            done += 1
        elif driver is not None and driver["cell"] == named:
            running.append({**named, **{key: driver[key] for key in ("host", "pid", "since")}})
        elif record is not None:
            failures.append({**named, "error": record.error})
    settled = done + len(failures) + len(running)
    return {
        "key": manifest.key,
        "started": manifest.started,
        **manifest.about,
        "cells": len(manifest.cells),
        "done": done,
        "failed": len(failures),
        "claimed": len(running),
        "missing": len(manifest.cells) - settled,
        "running": running,
        "failures": failures,
    }


def _bytes_below(folder: Path) -> int:
    """Bytes of all files; those that a running sweep takes away meanwhile count as none."""
    used = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                used += (Path(parent) / name).stat().st_size
    return used


def _name(cell: dict[str, Any]) -> str:
    return f"{cell['method']}, {cell['erased']}, seed {cell['seed']}"


def duration(seconds: float) -> str:
    """Two digits are enough for an estimate.

    >>> [duration(s) for s in (0.4, 45, 600, 9000, 200_000)]
    ['1 s', '45 s', '10 min', '2.5 h', '2.3 days']
    """
    for unit, length, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < limit * length:
            return f"{max(1, seconds / length):.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"

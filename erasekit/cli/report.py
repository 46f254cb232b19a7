"""`erasekit report`: one HTML file of benchmarks and erasures, to read and to send around."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from erasekit.cli.console import print_json, print_note, stdout
from erasekit.cli.options import JsonOption, path_option, registry_of
from erasekit.errors import ConfigError, OutputError

MEGABYTE = 1_000_000


def report(
    context: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that `bench` or `erase` wrote.", metavar="RUN...")
    ],
    output: Annotated[
        Path | None, path_option("FILE", "The page [default: report.html in the first RUN].")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    max_megabytes: Annotated[
        float, typer.Option(min=0, help="Megabytes that the pictures may take.")
    ] = 16,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML file with tables, plots and pictures; it needs no network when opened.

    A benchmark shows the sweep that was run last in its folder, as far as it has come.
    """
    from erasekit.files import atomic_write_text
    from erasekit.reporting.page import render
    from erasekit.reporting.results import read_result
    from erasekit.training.run_folder import command

    output = output or runs[0] / "report.html"
    if output.is_dir():
        raise OutputError(f"{str(output)!r} is a folder; name a file with --output.")
    if not math.isfinite(max_megabytes):
        raise ConfigError(f"--max-megabytes is {max_megabytes}; give a number.")
    registry = registry_of(context)
    results = [read_result(run, registry) for run in runs]
    limit = round(max_megabytes * MEGABYTE)
    page = render(results, title=title or "", command=command(), limit=limit)
    atomic_write_text(output, page.html)
    size = output.stat().st_size
    if as_json:
        paths = {"report": str(output), "runs": [str(run) for run in runs]}
        print_json({**paths, "bytes": size, "images": page.images, "left_out": page.left_out})
        return
    if page.left_out:
        print_note(
            f"The pictures of {page.left_out} concepts were left out to keep the page small; "
            "--max-megabytes changes that."
        )
    stdout().print(f"{output} ({size / MEGABYTE:.1f} MB, {page.images} pictures)", soft_wrap=True)

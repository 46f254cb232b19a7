"""`erasekit report`: one HTML file of benchmarks and erasures, to read and to send around."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from erasekit.cli.context import JSON_OPTION, registry_of
from erasekit.cli.output import print_json, print_note, stdout
from erasekit.errors import ConfigError, OutputError

MEGABYTE = 1_000_000


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("report")(report)


def report(
    context: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that `bench` or `erase` wrote.", metavar="RUN...")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    max_megabytes: Annotated[
        float, typer.Option(min=0, help="Megabytes that the pictures may take.")
    ] = 16,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Write one HTML file with tables, plots and pictures; it needs no network when opened.

    A benchmark shows the sweep that was run last in its folder, as far as it has come.
    """
    import erasekit
    from erasekit.cli.reading import read_result
    from erasekit.files import atomic_write_text
    from erasekit.reporting.page import render
    from erasekit.reporting.report import Report
    from erasekit.training.run_folder import command

    if output.is_dir():
        raise OutputError(f"{str(output)!r} is a folder; name a file with --output.")
    if not math.isfinite(max_megabytes):
        raise ConfigError(f"--max-megabytes is {max_megabytes}; give a number.")
    registry = registry_of(context)
    results = [read_result(run, registry) for run in runs]
    page = render(
        Report(title or "", results, erasekit.__version__, command()),
        limit=round(max_megabytes * MEGABYTE),
    )
    atomic_write_text(output, page.html)
    size = output.stat().st_size
    if as_json:
        print_json(
            {
                "report": str(output),
                "runs": [str(run) for run in runs],
                "bytes": size,
                "images": page.images,
                "left_out": page.left_out,
            }
        )
        return
    if page.left_out:
        print_note(
            f"The pictures of {page.left_out} concepts were left out to keep the page small; "
            "--max-megabytes changes that."
        )
    stdout().print(
        f"{output} ({size / MEGABYTE:.1f} MB, {page.images} pictures)",
        soft_wrap=True,
        markup=False,
    )

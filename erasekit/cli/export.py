"""`erasekit export`: an edit in the forms that other programs load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli.context import (
    DEVICE_OPTION,
    JSON_OPTION,
    MODEL_HELP,
    REVISION_OPTION,
    registry_of,
)
from erasekit.cli.loading import chosen_model, opened
from erasekit.cli.output import print_json, print_note, stdout
from erasekit.exports.formats import FORMATS, ExportOptions, ExportResult, Layout, Precision
from erasekit.exports.formats import export as write
from erasekit.plugin.registry import Registry

if TYPE_CHECKING:
    from erasekit.models.loading import LoadedModel

Target = StrEnum("Target", {name.upper().replace("-", "_"): name for name in FORMATS})  # type: ignore[misc]
"""What can be written."""

_DIFFUSERS = Target("diffusers")

_DEFAULTS = ExportOptions()
_TO_HELP = "; ".join(f"{form.name}: {form.help}" for form in FORMATS.values()) + "."


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("export")(export)


def export(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder of an erasure, or a delta file.")],
    to: Annotated[Target, typer.Option(help=_TO_HELP)] = _DIFFUSERS,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder or file to write [default: RUN/FORM]."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    revision: Annotated[str | None, REVISION_OPTION] = None,
    device: Annotated[str, DEVICE_OPTION] = "cpu",
    dtype: Annotated[
        Precision | None, typer.Option(help="Precision of the weights [default: the model's].")
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(help="diffusers: largest weights file, such as 2GB.")
    ] = None,
    layout: Annotated[
        Layout,
        typer.Option(help="lora: names for load_lora_weights, or for ComfyUI and A1111 (kohya)."),
    ] = _DEFAULTS.layout,
    energy: Annotated[
        float, typer.Option(help="lora: share of each weight's squared change to keep.")
    ] = _DEFAULTS.energy,
    rank: Annotated[
        int | None, typer.Option(help="lora: one rank for all weights, in place of --energy.")
    ] = None,
    allow_loss: Annotated[
        bool,
        typer.Option("--allow-loss", help="Leave out what the form can't carry though it matters."),
    ] = False,
    images: Annotated[
        int, typer.Option(min=0, help="lora: images drawn to state the error in pixels.")
    ] = _DEFAULTS.images,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there already.")] = False,
    force: Annotated[
        bool, typer.Option(help="Apply the edit to a model it was not made from.")
    ] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Write the edited model in a form that programs load which know nothing of erasekit."""
    options = ExportOptions(
        dtype, max_shard_size, layout, energy, rank, allow_loss, images, force=force
    )
    form = FORMATS[to.value]
    form.check(options)
    from erasekit.edits import load_edit

    registry = registry_of(context)
    edit = load_edit(run, registry)
    wanted = output or (run if run.is_dir() else run.with_suffix("")) / form.name
    path = form.destination(wanted, options, overwrite=overwrite)
    name = chosen_model(model, edit, revision)
    with _opened_if(form.needs_model, name, registry, device) as loaded:
        result = write(edit, loaded, form.name, path, options)
    if as_json:
        print_json({"model": name, "edit": str(run), "to": form.name, **result_fields(result)})
        return
    print_result(result)


def result_fields(result: ExportResult) -> dict[str, Any]:
    """What `--json` says of a written export."""
    folder = result.path if result.path.is_dir() else result.path.parent
    return {
        "path": str(result.path),
        "folder": str(folder),
        "files": [str(file) for file in result.files],
        "bytes": sum(file.stat().st_size for file in result.files),
        "load_with": result.load_with,
        "report": result.report,
        "notes": result.notes,
    }


def print_result(result: ExportResult) -> None:
    """Say where it is and how to load it; remarks go to standard error."""
    for note in result.notes:
        print_note(note)
    size = sum(file.stat().st_size for file in result.files)
    stdout().print(
        f"Written: {result.path} ({_size(size)})\nLoad it with: {result.load_with}",
        markup=False,
        soft_wrap=True,
    )


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"


@contextmanager
def _opened_if(
    wanted: bool, name: str, registry: Registry, device: str
) -> Iterator[LoadedModel | None]:
    if not wanted:
        yield None
        return
    with opened(name, registry, device=device) as loaded:
        yield loaded

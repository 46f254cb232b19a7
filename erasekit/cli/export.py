"""`erasekit export`: a whole pipeline that other programs load."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from erasekit.cli.context import JSON_OPTION, MODEL_HELP, registry_of
from erasekit.cli.loading import chosen_model, opened
from erasekit.cli.output import print_json, stdout
from erasekit.files import check_output_folder


class Target(StrEnum):
    """What can be written."""

    DIFFUSERS = "diffusers"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("export")(export)


def export(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder of an erasure.")],
    to: Annotated[
        Target, typer.Option(help="diffusers: a folder that from_pretrained loads.")
    ] = Target.DIFFUSERS,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write [default: RUN/diffusers]."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that is not empty.")] = False,
    force: Annotated[
        bool, typer.Option(help="Apply the edit to a model it was not made from.")
    ] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Write the edited model as a whole pipeline, for programs that know nothing of erasekit."""
    from erasekit.edits import load_edit

    folder = output or run / to.value
    edit = load_edit(run)
    check_output_folder(folder, overwrite=overwrite)
    name = chosen_model(model, edit)
    with opened(name, registry_of(context)) as loaded:
        edit.export_diffusers(loaded, folder, force=force)
    if as_json:
        print_json({"model": name, "edit": str(run), "to": to.value, "folder": str(folder)})
        return
    stdout().print(
        f'Written: {folder}\nLoad it with: StableDiffusionPipeline.from_pretrained("{folder}")',
        markup=False,
        soft_wrap=True,
    )

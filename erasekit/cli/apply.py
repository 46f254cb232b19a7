"""`erasekit apply`: an edit on another model of the same architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erasekit.cli.context import JSON_OPTION, MODEL_HELP, REVISION_OPTION, registry_of
from erasekit.cli.export import print_result, result_fields
from erasekit.cli.loading import chosen_model, opened
from erasekit.cli.output import print_json, print_note
from erasekit.exports.formats import ExportOptions, Precision, format_named


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("apply")(apply)


def apply(
    context: typer.Context,
    edit: Annotated[Path, typer.Argument(help="Run folder of an erasure, or a delta file.")],
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Diffusers folder to write.")],
    revision: Annotated[str | None, REVISION_OPTION] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Apply the edit to a model it was not made from.")
    ] = False,
    difference: Annotated[
        bool,
        typer.Option(
            "--difference",
            help="Add what the edit changed, in place of the edited weights themselves: keeps what "
            "a fine-tuned model has learnt. Needs the edit's own base model too.",
        ),
    ] = False,
    dtype: Annotated[
        Precision | None, typer.Option(help="Precision of the weights [default: the model's].")
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(help="Largest weights file, such as 2GB.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that is not empty.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Write another model with an edit applied: for a fine-tune of the model it was made from."""
    from erasekit.edits import load_edit
    from erasekit.exports import transfer
    from erasekit.exports.diffusers import export_diffusers

    options = ExportOptions(dtype, max_shard_size, force=True)
    form = format_named("diffusers")
    form.check(options)
    registry = registry_of(context)
    loaded_edit = load_edit(edit, registry)
    form.destination(output, options, overwrite=overwrite)
    model = chosen_model(model, revision=revision)
    with opened(model, registry) as loaded:
        transfer.fits(loaded_edit, loaded)
        if not force:
            with loaded_edit.applied(loaded):
                pass  # refuses another model, naming both hashes
        applied = loaded_edit
        if difference:
            with opened(str(loaded_edit.info["base_model"]["id"]), registry) as base:
                applied = transfer.as_difference(loaded_edit, base, loaded)
        facts = transfer.provenance(loaded_edit, loaded, difference=difference)
        result = export_diffusers(applied, loaded, output, options, facts)
    if as_json:
        facts.pop("edit")
        print_json({"model": model, "edit": str(edit), **facts, **result_fields(result)})
        return
    for sentence in facts["unknown"]:
        print_note(sentence)
    print_result(result)

"""`erasekit export`, `import`, `apply`, `push` and `pull`: edits to and from other programs."""

from __future__ import annotations

from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from erasekit.cli.console import print_json, print_note, quiet_libraries, stdout, working
from erasekit.cli.options import (
    MODEL_HELP,
    OUTPUT_PANEL,
    Device,
    DeviceOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
    RevisionOption,
    chosen_model,
    opened,
    output_path,
    registry_of,
)
from erasekit.concepts import slug
from erasekit.exports import formats
from erasekit.exports.formats import FORMATS, ExportOptions, ExportResult, Layout, Precision
from erasekit.files import atomic_folder, check_output_folder, new_run_folder

Target = StrEnum("Target", {n.upper().replace("-", "_"): n for n in (*FORMATS, *formats.ALIASES)})  # type: ignore[misc]
"""What `--to` takes."""

RUNS = Path("runs")
EDIT_MARKS = ("edit.json",)
_DEFAULTS = ExportOptions()
_DIFFUSERS = Target("diffusers")

EditArgument = Annotated[
    Path, typer.Argument(help="Run folder of an erasure, or a file of `export --to weights`.")
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Apply the edit to a model it was not made from.")
]
DtypeOption = Annotated[
    Precision | None, typer.Option(help="Precision of the weights [default: the model's].")
]
ShardOption = Annotated[
    str | None, typer.Option(help="diffusers: largest weights file, such as 2GB.")
]


def place_option(help: str) -> Any:
    """`--output` with a help of its own."""
    return typer.Option(
        "--output",
        "-o",
        parser=output_path,
        metavar="PATH",
        help=help,
        show_default=False,
        rich_help_panel=OUTPUT_PANEL,
    )


RepoArgument = Annotated[str, typer.Argument(help="Repository on the hub, OWNER/NAME.")]
FolderOption = Annotated[
    Path | None, place_option("Folder to write; numbered under runs/ by default.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for command in (export, import_, apply, push, pull):
        app.command(command.__name__.strip("_"), rich_help_panel="Share")(command)


def export(
    context: typer.Context,
    run: EditArgument,
    to: Annotated[
        Target,
        typer.Option(help="; ".join(f"{f.name}: {f.help}" for f in FORMATS.values()) + "."),
    ] = _DIFFUSERS,
    output: Annotated[
        Path | None, place_option("Folder or file to write [default: RUN/FORM].")
    ] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = Device.CPU,
    dtype: DtypeOption = None,
    max_shard_size: ShardOption = None,
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
    overwrite: OverwriteOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the edited model in a form that programs load which know nothing of erasekit."""
    options = ExportOptions(
        dtype, max_shard_size, layout, energy, rank, allow_loss, images, force=force
    )
    form = formats.format_named(to.value)
    form.check(options)
    from erasekit.edits import load_edit

    registry = registry_of(context)
    edit = load_edit(run, registry)
    wanted = output or (run if run.is_dir() else run.with_suffix("")) / form.name
    path = form.destination(wanted, options, overwrite=overwrite)
    name = chosen_model(model, edit, revision)
    opening = opened(name, registry, device=device) if form.needs_model else nullcontext()
    with opening as loaded:
        result = formats.export(edit, loaded, form.name, path, options)
    said = {"model": name, "edit": str(run), "to": form.name}
    _print_result(result, said if as_json else None)


def import_(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(help="A .safetensors file of UNet weights, as ESD's or UCE's code writes."),
    ],
    concept: Annotated[
        list[str], typer.Option("--concept", "-c", help="What was erased; may be repeated.")
    ],
    method: Annotated[str, typer.Option(help="How it was erased, for tables.")] = "imported",
    model: ModelOption = None,
    revision: RevisionOption = None,
    output: FolderOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take an edit that others published, to draw with, measure, compare and export."""
    from erasekit.exports import hub
    from erasekit.exports.weights import import_weights

    if output is not None:
        check_output_folder(output, overwrite=overwrite, marks=EDIT_MARKS)
    with opened(chosen_model(model, revision=revision), registry_of(context)) as loaded:
        edit = import_weights(file, loaded, concept, method=method)
    folder = output or new_run_folder(RUNS, f"{slug('-'.join(concept))[:60]}-{slug(method)}")
    with atomic_folder(folder, stale=hub.FILES) as written:
        edit.save(written)
    if as_json:
        print_json({"folder": str(folder), "edit": edit.info})
        return
    stdout().print(
        f"{len(edit.tensors)} changed tensors of {file}: {folder}\n"
        f"Draw with: erasekit generate --edit {folder} --prompt ...",
        soft_wrap=True,
    )


def apply(
    context: typer.Context,
    edit: EditArgument,
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)],
    output: Annotated[Path, place_option("Diffusers folder to write.")],
    revision: RevisionOption = None,
    force: ForceOption = False,
    difference: Annotated[
        bool,
        typer.Option(
            "--difference",
            help="Add what the edit changed, in place of the edited weights themselves: keeps what "
            "a fine-tuned model has learnt. Needs the edit's own base model too.",
        ),
    ] = False,
    dtype: DtypeOption = None,
    max_shard_size: ShardOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write another model with an edit applied: for a fine-tune of the model it was made from."""
    from erasekit.edits import load_edit
    from erasekit.exports import transfer
    from erasekit.exports.whole_model import export_diffusers

    options = ExportOptions(dtype, max_shard_size, force=True)
    form = formats.format_named("diffusers")
    form.check(options)
    registry = registry_of(context)
    loaded_edit = load_edit(edit, registry)
    form.destination(output, options, overwrite=overwrite)
    model = chosen_model(model, revision=revision)
    with opened(model, registry) as loaded:
        with loaded_edit.applied(loaded, force=force):
            pass  # refuses another architecture, and another model by both hashes
        applied = loaded_edit
        if difference:
            with opened(str(loaded_edit.info["base_model"]["id"]), registry) as base:
                applied = transfer.as_difference(loaded_edit, base, loaded)
        facts = transfer.provenance(loaded_edit, loaded, difference=difference)
        result = export_diffusers(applied, loaded, output, options, facts)
    facts.pop("edit")
    if not as_json:
        for sentence in facts["unknown"]:
            print_note(sentence)
    _print_result(result, {"model": model, "edit": str(edit), **facts} if as_json else None)


def push(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder of an erasure.")],
    repo_id: RepoArgument,
    private: Annotated[
        bool, typer.Option("--private", help="Where the repository is made, for you alone.")
    ] = False,
    message: Annotated[str, typer.Option("--message", help="Of the commit.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Share an edit on the hub: changed tensors, how they were made, what was measured."""
    from erasekit.edits import load_edit
    from erasekit.exports import hub
    from erasekit.models.names import place_of
    from erasekit.reporting.card import hub_card, run_card

    hub.check_repo_id(repo_id)
    info = load_edit(run).info
    base = place_of(str(info["base_model"]["id"]), registry_of(context))
    card = run / hub.CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else run_card(info, None, [])
    whole = hub_card(info, text, base)
    with quiet_libraries(), working(f"Sending to {repo_id}"):
        pushed = hub.push(run, repo_id, whole, private=private, message=message)
    if as_json:
        print_json({"edit": str(run), **pushed})
        return
    stdout().print(f"Sent: {pushed['url']}\nFetch it with: erasekit pull {repo_id}", soft_wrap=True)


def pull(
    repo_id: RepoArgument,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit [default: the main branch].")
    ] = None,
    output: FolderOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch an edit from the hub, to draw with, export or apply like one made here."""
    from erasekit.edits import load_edit
    from erasekit.exports import hub

    hub.check_repo_id(repo_id)
    if output is not None:
        check_output_folder(output, overwrite=overwrite, marks=EDIT_MARKS)
    with quiet_libraries(), working(f"Fetching {repo_id}"):
        fetched = hub.fetch(repo_id, revision=revision)
    folder = output or new_run_folder(RUNS, repo_id.partition("/")[2])
    hub.place(fetched, folder)
    info = load_edit(folder).info
    if as_json:
        print_json({"repo_id": repo_id, "revision": revision, "folder": str(folder), "edit": info})
        return
    base = info["base_model"]
    stdout().print(
        f"{', '.join(info['concepts'])}, erased from {base['id']} (hash {base['hash'][:16]}) by "
        f"{info['method']}: {folder}\nDraw with: erasekit generate --edit {folder} --prompt ...",
        soft_wrap=True,
    )


def _print_result(result: ExportResult, fields: dict[str, Any] | None) -> None:
    """Say where it is and how to load it, as JSON after `fields`; remarks go to standard error."""
    size = sum(file.stat().st_size for file in result.files)
    if fields is not None:
        print_json(
            {
                **fields,
                "path": str(result.path),
                "folder": str(result.path if result.path.is_dir() else result.path.parent),
                "files": [str(file) for file in result.files],
                "bytes": size,
                "load_with": result.load_with,
                "report": result.report,
                "notes": result.notes,
            }
        )
        return
    for note in result.notes:
        print_note(note)
    power = min(3, (len(str(size)) - 1) // 3)
    told = f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB')[power]}"
    stdout().print(
        f"Written: {result.path} ({told})\nLoad it with: {result.load_with}", soft_wrap=True
    )

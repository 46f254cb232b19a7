"""`erasekit push` and `erasekit pull`: edits to and from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erasekit.cli.context import JSON_OPTION, registry_of
from erasekit.cli.output import print_json, stderr, stdout
from erasekit.cli.quiet import quiet_libraries
from erasekit.files import check_output_folder, new_run_folder
from erasekit.reporting.card import hub_card, run_card

RUNS = Path("runs")


def register(app: typer.Typer) -> None:
    """Add both commands to the application."""
    app.command("push")(push)
    app.command("pull")(pull)


def push(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder of an erasure.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the hub, OWNER/NAME.")],
    private: Annotated[
        bool, typer.Option("--private", help="Where the repository is made, for you alone.")
    ] = False,
    message: Annotated[str, typer.Option("--message", help="Of the commit.")] = "",
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Share an edit on the hub: changed tensors, how they were made, what was measured."""
    from erasekit.edits import load_edit
    from erasekit.exports import hub
    from erasekit.models.names import place_of

    hub.check_repo_id(repo_id)
    info = load_edit(run).info
    base = place_of(str(info["base_model"]["id"]), registry_of(context))
    card = run / hub.CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else run_card(info, None, [])
    whole = hub_card(info, text, base)
    with quiet_libraries(), stderr().status(f"Sending to {repo_id}"):
        pushed = hub.push(run, repo_id, whole, private=private, message=message)
    if as_json:
        print_json({"edit": str(run), **vars(pushed)})
        return
    stdout().print(
        f"Sent: {pushed.url}\nFetch it with: erasekit pull {repo_id}", markup=False, soft_wrap=True
    )


def pull(
    repo_id: Annotated[str, typer.Argument(help="Repository on the hub, OWNER/NAME.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit [default: the main branch].")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write; numbered under runs/ by default."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that is not empty.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Fetch an edit from the hub, to draw with, export or apply like one made here."""
    from erasekit.edits import load_edit
    from erasekit.exports import hub

    hub.check_repo_id(repo_id)
    if output is not None:
        check_output_folder(output, overwrite=overwrite, marks=["edit.json"])
    with quiet_libraries(), stderr().status(f"Fetching {repo_id}"):
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
        markup=False,
        soft_wrap=True,
    )

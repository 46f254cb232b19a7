"""`erasekit ui`: a page in the browser to erase, look, and export. Registers the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erasekit.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def erasekit_register_commands(app: typer.Typer) -> None:
    from erasekit.ui.commands import ui

    app.command("ui", rich_help_panel="Make")(ui)

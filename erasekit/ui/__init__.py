"""A page in the browser to erase, look, and export. Adds its command."""

from __future__ import annotations

import typer

from erasekit.plugin.hookspecs import hookimpl


@hookimpl
def erasekit_register_commands(app: typer.Typer) -> None:
    from erasekit.ui.commands import ui

    app.command("ui", rich_help_panel="Make")(ui)

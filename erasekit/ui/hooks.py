"""The command of the page. No torch here."""

from __future__ import annotations

import typer

from erasekit.plugin.hookspecs import hookimpl


@hookimpl
def erasekit_register_commands(app: typer.Typer) -> None:
    from erasekit.ui.commands import ui

    app.command("ui", rich_help_panel="Make")(ui)

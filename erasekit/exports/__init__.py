"""Exports: an edit in the forms that other programs read (`formats.FORMATS`). Adds the commands."""

from __future__ import annotations

import typer

from erasekit.plugin.hookspecs import hookimpl


@hookimpl
def erasekit_register_commands(app: typer.Typer) -> None:
    from erasekit.exports.commands import register

    register(app)

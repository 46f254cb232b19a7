"""The three observations of Bui et al., NeurIPS 2024, a module each. Adds their commands."""

from __future__ import annotations

import typer

from erasekit.plugin.hookspecs import hookimpl


@hookimpl
def erasekit_register_commands(app: typer.Typer) -> None:
    from erasekit.observe.commands import register

    register(app)

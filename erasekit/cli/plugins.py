"""`erasekit plugins`: what was found, which versions, and what is wrong with it."""

from __future__ import annotations

import dataclasses

import typer

from erasekit.cli.console import print_error, print_json, stdout, table
from erasekit.cli.options import JsonOption, registry_of


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("plugins")(plugins)


def plugins(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the plugins that were found, with their versions and their faults."""
    registry = registry_of(context)
    collisions = registry.collisions()
    found = registry.manager.plugins
    if as_json:
        print_json({"plugins": [dataclasses.asdict(p) for p in found], "collisions": collisions})
        return
    rows = [(p.name, p.version, p.module, f"broken: {p.error}" if p.error else "ok") for p in found]
    stdout().print(table("Plugins", ("plugin", "version", "module", "state"), rows))
    for collision in collisions:
        print_error(collision)

"""`erasekit scorers`: what can judge images."""

from __future__ import annotations

import typer

from erasekit.cli.console import print_json, stdout, table
from erasekit.cli.options import JsonOption, registry_of


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("scorers")(scorers)


def scorers(context: typer.Context, as_json: JsonOption = False) -> None:
    """List what judges images: scorers, classifiers and further measures."""
    registry = registry_of(context)
    found = [
        {
            "name": scorer.name,
            "summary": scorer.summary,
            "reference": scorer.reference,
            "plugin": registry.owner(scorer),
        }
        for scorer in registry.scorers().values()
    ]
    if as_json:
        print_json({"scorers": found})
        return
    rows = [(s["name"], s["summary"], s["reference"], s["plugin"]) for s in found]
    stdout().print(table("Scorers", ("scorer", "what it judges", "reference", "plugin"), rows))

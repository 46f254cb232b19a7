"""`erasekit methods`: what can erase, and every hyperparameter of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from erasekit.cli.console import plain, print_json, stdout, table
from erasekit.cli.options import JsonOption, ModelOption, chosen_model, registry_of
from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.registry import Registry


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    group = typer.Typer()
    group.callback(invoke_without_command=True)(list_methods)
    group.command("show")(show)
    app.add_typer(group, name="methods")


def list_methods(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the methods, or show one with all its hyperparameters."""
    if context.invoked_subcommand:
        return
    registry = registry_of(context)
    methods = [_summary(method, registry) for method in registry.methods().values()]
    if as_json:
        print_json({"methods": methods})
        return
    rows = [
        (m["name"], m["summary"], m["reference"], f"{m['plugin']} {m['version']}") for m in methods
    ]
    stdout().print(table("Methods", ("method", "what it does", "reference", "plugin"), rows))
    stdout().print("Every hyperparameter of one: erasekit methods show NAME", style="dim")


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A method's name.")],
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every hyperparameter of one method: type, default, the model's own default, help."""
    registry, model = registry_of(context), chosen_model(model)
    method = registry.method(name)
    settings = _settings(method, registry, model)
    if as_json:
        print_json({"method": _summary(method, registry), "model": model, "settings": settings})
        return
    console = stdout()
    console.print(Text.assemble((plain(method.name), "bold"), f": {method.summary}"))
    if method.reference:
        console.print(method.reference, style="dim")
    rows = [
        (
            s["name"],
            s["type"],
            _shown(s["default"]),
            _shown(s["model_default"]) if s["model_default"] != s["default"] else "",
            s["help"],
        )
        for s in settings
    ]
    columns = ("setting", "type", "default", f"on {model}", "meaning")
    console.print(table("Hyperparameters (--set NAME=VALUE, or a TOML recipe)", columns, rows))


def _summary(method: MethodDescriptor, registry: Registry) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "strategy": method.options.get("strategy"),
        "reference": method.reference,
        "plugin": registry.owner(method),
        "version": registry.version(method),
    }


def _settings(method: MethodDescriptor, registry: Registry, model: str) -> list[dict[str, Any]]:
    from erasekit.config import describe, flatten
    from erasekit.models.loading import resolve_source
    from erasekit.training.plan import resolve_settings, settings_groups

    described, _ = resolve_source(model, registry)
    on_model = flatten(resolve_settings(method, registry, described, {}, {}))
    return [
        {
            "name": field.name,
            "type": field.type,
            "default": list(field.default) if isinstance(field.default, tuple) else field.default,
            "model_default": on_model[field.name],
            "group": field.group,
            "help": field.help,
        }
        for field in describe(settings_groups(method, registry))
    ]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)

"""`erasekit methods`, `suites` and `scorers`: what is registered, and one of it in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from erasekit.cli.console import plain, print_json, stdout, table
from erasekit.cli.options import (
    JsonOption,
    ModelOption,
    chosen_model,
    registered,
    registry_of,
)
from erasekit.plugin.descriptors import Descriptor, MethodDescriptor
from erasekit.plugin.registry import Registry


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for listing, show in ((methods, show_method), (suites, show_suite)):
        group = typer.Typer()
        group.callback(invoke_without_command=True)(listing)
        group.command("show")(show)
        app.add_typer(group, name=listing.__name__)
    app.command("scorers")(scorers)


def methods(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the methods, or show one with all its hyperparameters."""
    if context.invoked_subcommand:
        return
    registry = registry_of(context)
    found = [_method(method, registry) for method in registry.methods().values()]
    if as_json:
        print_json({"methods": found})
        return
    rows = [
        (m["name"], m["summary"], m["reference"], f"{m['plugin']} {m['version']}") for m in found
    ]
    stdout().print(table("Methods", ("method", "what it does", "reference", "plugin"), rows))
    stdout().print("Every hyperparameter of one: erasekit methods show NAME", style="dim")


def suites(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the suites, or show one as it is on a model."""
    if context.invoked_subcommand:
        return
    _list(context, "suites", "what it measures", as_json)
    if not as_json:
        stdout().print("One in full: erasekit suites show NAME --model MODEL", style="dim")


def scorers(context: typer.Context, as_json: JsonOption = False) -> None:
    """List what judges images: scorers, classifiers and further measures."""
    _list(context, "scorers", "what it judges", as_json)


def show_method(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A method's name.", autocompletion=registered("methods"))
    ],
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every hyperparameter of one method: type, default, the model's own default, help."""
    registry, model = registry_of(context), chosen_model(model)
    method = registry.method(name)
    settings = _settings(method, registry, model)
    if as_json:
        print_json({"method": _method(method, registry), "model": model, "settings": settings})
        return
    stdout().print(Text.assemble((plain(method.name), "bold"), f": {method.summary}"))
    if method.reference:
        stdout().print(method.reference, style="dim")
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
    stdout().print(table("Hyperparameters (--set NAME=VALUE, or a TOML recipe)", columns, rows))


def show_suite(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(help="A suite's name, or a TOML file.", autocompletion=registered("suites")),
    ],
    model: ModelOption = None,
    full: Annotated[bool, typer.Option("--full", help="Its full protocol.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Cases, prompts, seeds, judges and methods of one suite on a model."""
    from erasekit.bench.suite import describe_suite
    from erasekit.bench.suite_file import load_suite
    from erasekit.models.names import resolve_source

    registry, model = registry_of(context), chosen_model(model)
    described, _ = resolve_source(model, registry)
    suite = load_suite(name, registry, described, full=full)
    if as_json:
        print_json({"model": model, "suite": describe_suite(suite)})
        return
    judged = suite.scorer or described.scorer
    rows = [
        ("version", suite.version),
        ("protocol", suite.protocol),
        *((f"case {number}", case) for number, case in enumerate(suite.cases, start=1)),
        ("prompt", suite.prompt),
        ("images per kept concept", suite.images_per_concept),
        ("images per erased concept", suite.images_per_erased),
        ("concepts", len(suite.concepts)),
        ("words of its concept space", suite.words),
        ("classes", len(suite.classes())),
        ("alignment by", judged),
        ("classes by", suite.classifier or f"{judged}, zero-shot"),
        ("further measures", ", ".join(suite.measures) or "none"),
        ("further metrics", ", ".join(suite.metrics) or "none"),
        ("methods", ", ".join(suite.methods)),
        ("erasure seeds", suite.seeds),
    ]
    stdout().print(table(f"{suite.name} on {model}", ("what", "value"), rows))


def _list(context: typer.Context, kind: str, what: str, as_json: bool) -> None:
    """What is registered of one kind."""
    registry = registry_of(context)
    listed: Mapping[str, Descriptor] = getattr(registry, kind)()
    found = [_entry(descriptor, registry) for descriptor in listed.values()]
    if as_json:
        print_json({kind: found})
        return
    columns = (kind.removesuffix("s"), what, "reference", "plugin")
    stdout().print(table(kind.capitalize(), columns, [tuple(one.values()) for one in found]))


def _entry(descriptor: Descriptor, registry: Registry) -> dict[str, Any]:
    return {
        "name": descriptor.name,
        "summary": descriptor.summary,
        "reference": descriptor.reference,
        "plugin": registry.owner(descriptor),
    }


def _method(method: MethodDescriptor, registry: Registry) -> dict[str, Any]:
    strategy = method.options.get("strategy")
    version = registry.version(method)
    return {**_entry(method, registry), "strategy": strategy, "version": version}


def _settings(method: MethodDescriptor, registry: Registry, model: str) -> list[dict[str, Any]]:
    from erasekit.config import describe, flatten
    from erasekit.models.names import resolve_source
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

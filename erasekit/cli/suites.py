"""`erasekit suites`: what there is to measure with, and what a suite is on a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from erasekit.cli.console import print_json, stdout, table
from erasekit.cli.options import JsonOption, ModelOption, chosen_model, registry_of
from erasekit.plugin.descriptors import SuiteDescriptor
from erasekit.plugin.registry import Registry


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    group = typer.Typer()
    group.callback(invoke_without_command=True)(list_suites)
    group.command("show")(show)
    app.add_typer(group, name="suites")


def list_suites(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the suites, or show one as it is on a model."""
    if context.invoked_subcommand:
        return
    registry = registry_of(context)
    suites = [_summary(suite, registry) for suite in registry.suites().values()]
    if as_json:
        print_json({"suites": suites})
        return
    rows = [(s["name"], s["summary"], s["reference"], s["plugin"]) for s in suites]
    stdout().print(table("Suites", ("suite", "what it measures", "reference", "plugin"), rows))
    stdout().print("One in full: erasekit suites show NAME --model MODEL", style="dim")


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")],
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
    title = f"{suite.name} on {model}"
    stdout().print(table(title, ("what", "value"), [(k, str(v)) for k, v in rows]))


def _summary(suite: SuiteDescriptor, registry: Registry) -> dict[str, Any]:
    return {
        "name": suite.name,
        "summary": suite.summary,
        "reference": suite.reference,
        "plugin": registry.owner(suite),
    }

"""`erasekit plugin`: begin a plugin, and check one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erasekit.cli.console import print_json, quiet_libraries, stdout, table, working
from erasekit.cli.options import JsonOption

SOME_FAULTS = 1
"""Exit code of a check that found faults."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="Begin a plugin, and check one.", no_args_is_help=True)
    group.command("new")(new)
    group.command("check")(check)
    app.add_typer(group, name="plugin")


def new(
    name: Annotated[str, typer.Argument(help="What it adds, such as my-method.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Its folder [default: ./erasekit-NAME]."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a package from the template, with tests that pass as written.

    It has a method without training, a preservation strategy, a scorer and a suite: keep what you
    need.
    """
    from erasekit.plugin.scaffold import PREFIX, plugin_name, write_plugin

    short = plugin_name(name)
    folder = write_plugin(short, output or Path(PREFIX + short))
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    if as_json:
        print_json({"name": PREFIX + short, "folder": str(folder), "files": files})
        return
    console = stdout()
    console.print(f"Written: {folder} ({len(files)} files)", soft_wrap=True)
    console.print(f"Use it: python -m pip install {folder}", soft_wrap=True)
    console.print(f"Check it: erasekit plugin check {folder}", soft_wrap=True)


def check(
    plugin: Annotated[
        str, typer.Argument(help="A folder with a plugin's source, or an installed plugin's name.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Run the tests that every plugin must pass, and say in words what fails.

    Methods and strategies erase from a tiny random model, some twenty times each. Exit code 1
    where something fails.
    """
    from dataclasses import asdict

    from erasekit.plugin.lookup import find_plugin
    from erasekit.testing.checks import check_plugin

    points = find_plugin(plugin)
    findings = []
    with quiet_libraries(), working(f"Checking {plugin}") as say:
        for finding in check_plugin(points):
            findings.append(finding)
            say(f"{len(findings)} checks done; last: {finding.subject}, {finding.check}")
    faults = [finding for finding in findings if finding.fault]
    if as_json:
        print_json({"plugin": plugin, "findings": [asdict(f) for f in findings]})
    else:
        rows = [(f.subject, f.check, f"fails: {f.fault}" if f.fault else "ok") for f in findings]
        stdout().print(table(f"Checks of {plugin}", ("what", "check", "result"), rows))
        verdict = f"{len(faults)} of {len(findings)} fail." if faults else "All pass."
        stdout().print(verdict)
    if faults:
        raise typer.Exit(SOME_FAULTS)

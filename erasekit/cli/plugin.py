"""`erasekit plugin`: list the plugins, begin one, and check one.

A plugin is checked in a process of its own, which sees the folder that was named as if it were
installed, whatever else is installed under that name.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from erasekit.cli.console import print_error, print_json, stdout, table, working
from erasekit.cli.options import JsonOption, path_option, registry_of
from erasekit.errors import PluginError
from erasekit.plugin.hookspecs import GROUP
from erasekit.plugin.package import PREFIX, plugin_name, write_plugin

Finding = Mapping[str, str | None]
"""A `Finding` of `erasekit.testing.checks`: subject, check, and fault or None."""
SOME_FAULTS = 1
"""Exit code of a check that found faults."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="List the plugins, begin one, and check one.", no_args_is_help=True)
    group.command("list")(plugins)
    group.command("new")(new)
    group.command("check")(check)
    app.add_typer(group, name="plugin")
    app.command("plugins")(plugins)


def plugins(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the plugins that were found, with their versions and their faults."""
    registry = registry_of(context)
    collisions = registry.collisions()
    found = registry.manager.plugins
    if as_json:
        print_json({"plugins": [asdict(p) for p in found], "collisions": collisions})
        return
    rows = [(p.name, p.version, p.module, f"broken: {p.error}" if p.error else "ok") for p in found]
    stdout().print(table("Plugins", ("plugin", "version", "module", "state"), rows))
    for collision in collisions:
        print_error(collision)


def new(
    name: Annotated[str, typer.Argument(help="What it adds, such as my-method.")],
    output: Annotated[
        Path | None, path_option("PATH", "Its folder [default: ./erasekit-NAME].")
    ] = None,
    description: Annotated[str, typer.Option(help="One line on what it does.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Write a package from the template, with tests that pass as written.

    It has a method without training, a preservation strategy, an attack, a scorer and a suite: keep
    what you need.
    """
    short = plugin_name(name)
    folder = write_plugin(short, output or Path(PREFIX + short), description)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    if as_json:
        print_json({"name": PREFIX + short, "folder": str(folder), "files": files})
        return
    typed = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}")
    for line in (
        f"Written: {folder} ({len(files)} files)",
        f"Use it: python -m pip install {typed}",
        f"Check it: erasekit plugin check {typed}",
    ):
        stdout().print(line, soft_wrap=True)


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
    findings = []
    with working(f"Checking {plugin}") as say:
        for finding in check_apart(plugin):
            findings.append(finding)
            say(f"{len(findings)} checks done; last: {finding['subject']}, {finding['check']}")
    faults = [finding for finding in findings if finding["fault"]]
    if as_json:
        print_json({"plugin": plugin, "findings": findings})
    else:
        rows = [
            (f["subject"], f["check"], f"fails: {f['fault']}" if f["fault"] else "ok")
            for f in findings
        ]
        stdout().print(table(f"Checks of {plugin}", ("what", "check", "result"), rows))
        verdict = f"{len(faults)} of {len(findings)} fail." if faults else "All pass."
        stdout().print(verdict)
    if faults:
        raise typer.Exit(SOME_FAULTS)


def check_apart(where: str) -> Iterator[Finding]:
    """The findings of `erasekit.testing.checks` on a plugin, from a process of its own.

    Args:
        where: a folder with a pyproject.toml, a distribution's name with or without "erasekit-",
            or "distribution:entry point".

    Raises:
        PluginError: there is none.
    """
    folder = Path(where)
    if not folder.is_dir():
        yield from _findings([_installed(where)], [])
    elif not (folder / "pyproject.toml").is_file():
        raise PluginError(f"{where} has no pyproject.toml; give the folder of a plugin's source.")
    else:
        with _as_installed(folder.resolve()) as (name, paths):
            yield from _findings([name, str(folder.resolve())], paths)


def _findings(arguments: list[str], paths: list[str]) -> Iterator[Finding]:
    search = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "import sys; from erasekit.testing.checks import main; main(*sys.argv[1:])"
    command, ended = [sys.executable, "-P", "-c", code, *arguments], False
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=complaints,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": search},
        )
        try:
            for line in child.stdout or ():
                finding = json.loads(line)
                ended = finding is None
                if finding:
                    yield finding
            status = child.wait()
        finally:
            child.kill()
            child.communicate()
        if status or not ended:
            complaints.seek(0)
            last = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
            fault = ": ".join([f"the process ended with code {status}", *last])
            subject = f"plugin {arguments[0]!r}"
            yield {"subject": subject, "check": "the checks come to their end", "fault": fault}


@contextmanager
def _as_installed(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The name of a folder's distribution, and paths on which it is found before any other."""
    path = folder / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
        name, points = project.get("name", folder.name), project["entry-points"][GROUP]
        modules = {str(value).partition(":")[0].partition(".")[0] for value in points.values()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PluginError(f"{path} is no TOML ({error}); mend it.") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise PluginError(
            f"{path} has no table [project.entry-points.{GROUP}]; add one, with a line such as "
            'my-plugin = "my_package.hooks".'
        ) from error
    sources = []
    for module in sorted(modules):
        own = [
            place
            for place in (folder / "src", folder)
            if (place / module).is_dir() or (place / f"{module}.py").is_file()
        ]
        if not own:
            raise PluginError(
                f"{path} names the module {module!r}, which is neither in src/ nor in the folder; "
                "mend the table."
            )
        sources.append(str(own[0]))
    with tempfile.TemporaryDirectory(prefix="erasekit-check-") as place:
        metadata = Path(place) / f"{re.sub(r'[^a-z0-9]+', '_', str(name).lower())}-0.dist-info"
        metadata.mkdir()
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {project.get('version', '0')}\n"
        (metadata / "METADATA").write_text(about, encoding="utf-8")
        lines = [f"[{GROUP}]", *(f"{point} = {value}" for point, value in points.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield str(name), [place, *dict.fromkeys(sources)]


def _installed(name: str) -> str:
    """The distribution of this name, or "distribution:entry point"."""
    points = [(p.dist.name, p.name) for p in entry_points(group=GROUP) if p.dist]
    distributions = {distribution for distribution, _ in points}
    known = distributions | {":".join(point) for point in points}
    for wanted in (name, PREFIX + name):
        if wanted in known:
            return wanted
    raise PluginError(
        f"No plugin {name!r} is installed, nor is it a folder; installed are "
        f"{', '.join(sorted(distributions))}."
    )

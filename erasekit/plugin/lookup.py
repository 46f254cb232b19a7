"""A plugin by the folder of its source, or by the name it is installed under. No torch here."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from erasekit.errors import PluginError
from erasekit.plugin.hookspecs import GROUP
from erasekit.plugin.scaffold import PREFIX


def find_plugin(where: str) -> list[EntryPoint]:
    """The entry points of the plugin at or named `where`.

    Those of a folder are made importable: its src/, or the folder itself, goes first in
    `sys.path`, so that the source is what is checked, and not an installed copy of it.

    Args:
        where: a folder with a pyproject.toml, a distribution's name with or without "erasekit-",
            or "distribution:entry point".

    Raises:
        PluginError: there is none.
    """
    folder = Path(where)
    if (folder / "pyproject.toml").is_file():
        return _of_source(folder)
    if folder.is_dir():
        raise PluginError(f"{where} has no pyproject.toml; give the folder of a plugin's source.")
    return _installed(where, entry_points(group=GROUP))


def _of_source(folder: Path) -> list[EntryPoint]:
    path = folder / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginError(f"{path} is no TOML ({error}); mend it.") from error
    declared = project.get("entry-points", {}).get(GROUP, {})
    if not declared:
        raise PluginError(
            f"{path} has no table [project.entry-points.{GROUP}]; add one, with a line such as "
            'my-plugin = "my_package.hooks".'
        )
    source = folder / "src"
    sys.path.insert(0, str((source if source.is_dir() else folder).resolve()))
    return [EntryPoint(name, value, GROUP) for name, value in declared.items()]


def _installed(name: str, points: Iterable[EntryPoint]) -> list[EntryPoint]:
    found: dict[str, list[EntryPoint]] = {}
    for point in points:
        distribution = point.dist.name if point.dist else "unknown"
        found.setdefault(distribution, []).append(point)
    for wanted in (name, PREFIX + name):
        for distribution, own in found.items():
            if distribution == wanted:
                return own
            chosen = [p for p in own if f"{distribution}:{p.name}" == wanted]
            if chosen:
                return chosen
    raise PluginError(
        f"No plugin {name!r} is installed, nor is it a folder; installed are "
        f"{', '.join(sorted(found))}."
    )

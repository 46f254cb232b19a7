"""Loads plugins one at a time, so that a broken one is listed and breaks nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

import pluggy

from erasekit.plugin import hookspecs
from erasekit.plugin.hookspecs import GROUP


@dataclass(frozen=True)
class PluginInfo:
    """A plugin that was found.

    Attributes:
        name: "distribution:entry point".
        distribution: the installed package it comes from.
        version: that package's version.
        module: the module the entry point names.
        error: why it could not be loaded, or None.
    """

    name: str
    distribution: str
    version: str
    module: str
    error: str | None = None


class PluginManager:
    """The plugins of one process. Build one per application or test; there is no global one."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self.pluggy = pluggy.PluginManager(GROUP)
        self.pluggy.add_hookspecs(hookspecs)
        self.plugins: list[PluginInfo] = []
        found = entry_points(group=GROUP) if points is None else points
        for point in sorted(found, key=lambda p: (_distribution(p)[0] != GROUP, p.value)):
            self.plugins.append(self._load(point))

    def _load(self, point: EntryPoint) -> PluginInfo:
        distribution, version = _distribution(point)
        name = f"{distribution}:{point.name}"
        error = None
        try:
            self.register(point.load(), name)
        except (Exception, SystemExit) as fault:  # it may fail in any way: listed, not raised
            error = describe_fault(fault)
        return PluginInfo(name, distribution, version, point.value, error)

    def register(self, plugin: object, name: str) -> None:
        """Register one plugin object; takes it out again where its hooks are not valid.

        Raises:
            pluggy.PluginValidationError: a hook is misspelled, has the wrong arguments, or there
                is none.
            ValueError: the plugin or the name is registered already.
        """
        try:
            self.pluggy.register(plugin, name)
            callers = self.pluggy.get_hookcallers(plugin)
            if not callers:
                raise pluggy.PluginValidationError(plugin, "no function is marked with @hookimpl")
            for caller in callers:
                if not caller.has_spec():
                    raise pluggy.PluginValidationError(plugin, f"unknown hook {caller.name!r}")
        except pluggy.PluginValidationError:
            if self.pluggy.is_registered(plugin):
                self.pluggy.unregister(plugin)
            raise

    def call_each(self, hook: str, **kwargs: object) -> Iterable[tuple[str, object]]:
        """Call `hook` plugin by plugin; yields (plugin name, result or the exception it raised)."""
        for implementation in getattr(self.pluggy.hook, hook).get_hookimpls():
            arguments = {k: v for k, v in kwargs.items() if k in implementation.argnames}
            try:
                yield implementation.plugin_name, implementation.function(**arguments)
            except Exception as fault:
                yield implementation.plugin_name, fault

    def mark_broken(self, name: str, error: str) -> None:
        """List plugin `name` with `error`, behind those it has already."""
        self.plugins = [
            replace(p, error=f"{p.error}; {error}" if p.error else error) if p.name == name else p
            for p in self.plugins
        ]


def describe_fault(fault: BaseException) -> str:
    """The class and the first line of what a plugin raised."""
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0]}" if lines else type(fault).__name__


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")

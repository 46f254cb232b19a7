"""Loads plugins one at a time, so that a broken one is listed and breaks nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TextIO

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
        fault = attempt(lambda: self.register(point.load(), name))
        return PluginInfo(name, distribution, version, point.value, describe_fault(fault))

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

    def call_each(self, hook: str, **kwargs: object) -> Iterator[tuple[str, object]]:
        """Call `hook` plugin by plugin; yields (plugin name, result or what it raised)."""
        for implementation in getattr(self.pluggy.hook, hook).get_hookimpls():
            arguments = {k: v for k, v in kwargs.items() if k in implementation.argnames}
            call = partial(implementation.function, **arguments)
            yield implementation.plugin_name, attempt(call)

    def mark_broken(self, name: str, error: str) -> None:
        """List plugin `name` with `error`, behind those it has already."""
        self.plugins = [
            replace(p, error=f"{p.error}; {error}" if p.error else error) if p.name == name else p
            for p in self.plugins
        ]


def attempt(call: Callable[[], Any]) -> Any:
    """What a plugin's code gives, or what it raised.

    That may be anything, `SystemExit` and `KeyboardInterrupt` included; what it prints goes to
    standard error.
    """
    try:
        with stdout_aside():
            return call()
    except BaseException as fault:
        return fault


@contextmanager
def stdout_aside() -> Iterator[TextIO]:
    """Within the block all that goes to standard output goes to standard error.

    By `print`, by the number of the file, and by programs that are started.

    Yields:
        Standard output as it was.
    """
    before, results, kept = sys.stdout, sys.stdout, None
    with suppress(OSError, ValueError, AttributeError):
        kept = os.dup(1)
        before.flush()
        if before.fileno() == 1:
            results = open(  # noqa: SIM115 - closed below
                kept, "w", encoding=before.encoding, errors=before.errors, closefd=False
            )
    try:
        if kept is not None:
            os.dup2(2, 1)
        sys.stdout = sys.stderr
        yield results
    finally:
        sys.stdout = before
        with suppress(OSError, ValueError, AttributeError):
            sys.__stdout__.flush()  # type: ignore[union-attr]
        try:
            results.flush()
        finally:
            if kept is not None:
                os.dup2(kept, 1)
                os.close(kept)


def describe_fault(fault: object) -> str | None:
    """The class and the first line of what a plugin raised; None of anything else."""
    if not isinstance(fault, BaseException):
        return None
    try:
        lines = str(fault).strip().splitlines()
    except Exception:  # its class is a plugin's too
        lines = []
    return ": ".join([type(fault).__name__, *lines[:1]])


def _distribution(point: EntryPoint) -> tuple[str, str]:
    try:
        return str(point.dist.name), str(point.dist.version)  # type: ignore[union-attr]
    except Exception:  # none, or its metadata is damaged
        return "unknown", "unknown"

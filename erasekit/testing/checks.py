"""A plugin under the same tests as the built-in ones, each finding in words."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from erasekit.diffusion.inference_parts import InferencePart
from erasekit.errors import ErasekitError, ScopeError
from erasekit.methods.base import ErasureMethod
from erasekit.methods.gradient import PreservationStrategy
from erasekit.plugin.descriptors import (
    Descriptor,
    InferenceDescriptor,
    MethodDescriptor,
    StrategyDescriptor,
)
from erasekit.plugin.manager import PluginManager, describe_fault
from erasekit.plugin.registry import HOOKS, Registry
from erasekit.testing.testers import MethodTester, StrategyTester
from erasekit.testing.tiny import tiny_model

BASES: dict[type[Descriptor], type] = {
    MethodDescriptor: ErasureMethod,
    StrategyDescriptor: PreservationStrategy,
    InferenceDescriptor: InferencePart,
}
"""What the targets of these must inherit from; the others may be functions."""
SCOPES = ("xattn-kv", "xattn", "selfattn")
"""Scopes that a method is tried in; one that it refuses in a sentence is left out."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        subject: what was checked: the plugin, or "method 'name'".
        check: what it must do.
        fault: what is wrong, in words; None where nothing is.
    """

    subject: str
    check: str
    fault: str | None = None


def check_plugin(points: Sequence[EntryPoint]) -> Iterator[Finding]:
    """All findings on one plugin, as they come. Every method trains, so it takes a while.

    Args:
        points: its entry points, which need not be installed.
    """
    manager = PluginManager()
    names: list[str] = []
    for point in points:
        yield _loads(manager, point, names)
    if not names:
        return
    for point in points:
        fault = slow_hooks(point.module)
        yield Finding(f"plugin {point.name!r}", "its hooks import no torch", fault)
    descriptors: list[Descriptor] = []
    for kind, hook in HOOKS.items():
        given, findings = _given(manager, names, hook, kind)
        descriptors += given
        yield from findings
    yield from _clashes(manager, names)
    for descriptor in descriptors:
        subject = f"{descriptor.kind} {descriptor.name!r}"
        finding = _target(descriptor, subject)
        yield finding
        if finding.fault is None and isinstance(descriptor, MethodDescriptor | StrategyDescriptor):
            modules = [manager.pluggy.get_plugin(name) for name in names]
            yield from _tested(descriptor, subject, modules)


def _loads(manager: PluginManager, point: EntryPoint, names: list[str]) -> Finding:
    """Import and register it; what is installed already is there by its own name."""
    name, fault = f"under test:{point.name}", None
    try:
        plugin = point.load()
        if manager.pluggy.is_registered(plugin):
            name = str(manager.pluggy.get_name(plugin))
        else:
            manager.register(plugin, name)
    except (Exception, SystemExit) as error:  # it may fail in any way
        fault = describe_fault(error)
    else:
        names.append(name)
    return Finding(f"plugin {point.name!r}", "it can be imported, and its hooks are known", fault)


def slow_hooks(module: str) -> str | None:
    """Why importing the hooks in `module` costs every command seconds; None where it does not."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; import {module}; print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    if done.stdout.split()[-1] == "True":
        return f"{module} imports torch; import it where the descriptors point at"
    return None


def _given(
    manager: PluginManager, names: Sequence[str], hook: str, kind: type[Descriptor]
) -> tuple[list[Descriptor], list[Finding]]:
    """What the plugin's `hook` gives, and what is wrong with it."""
    found: list[Descriptor] = []
    findings = []
    for owner, result in manager.call_each(hook):
        if owner not in names:
            continue
        fault = None
        if isinstance(result, BaseException):
            fault = f"{hook} raised {describe_fault(result)}"
        elif not isinstance(result, Iterable):
            fault = f"{hook} gave {result!r}, not a list of {kind.__name__}"
        else:
            things = list(result)
            found += [thing for thing in things if isinstance(thing, kind)]
            wrong = [thing for thing in things if not isinstance(thing, kind)]
            fault = f"{hook} gave {wrong[0]!r}, not a {kind.__name__}" if wrong else None
        findings.append(Finding(f"plugin {owner!r}", f"{hook} gives {kind.__name__}s", fault))
    return found, findings


def _clashes(manager: PluginManager, names: Sequence[str]) -> Iterator[Finding]:
    claims = Registry(manager).collisions()
    for name in names:
        own = [claim for claim in claims if repr(name) in claim]
        yield Finding(f"plugin {name!r}", "its names are its own", " ".join(own) or None)


def _target(descriptor: Descriptor, subject: str) -> Finding:
    fault = None
    try:
        target = descriptor.load()
    except ErasekitError as error:
        fault = str(error)
    else:
        base = BASES.get(type(descriptor))
        if base and not (isinstance(target, type) and issubclass(target, base)):
            fault = f"{descriptor.target} is no {base.__name__}"
    return Finding(subject, "its target can be imported, and is of the right kind", fault)


def _tested(
    descriptor: MethodDescriptor | StrategyDescriptor, subject: str, modules: Sequence[object]
) -> Iterator[Finding]:
    """The shared tests, each a finding."""
    tester, fault = _tester(descriptor, modules)
    yield Finding(subject, "it erases from a tiny model", fault)
    if tester is None:
        return
    for name, test in inspect.getmembers(tester, inspect.ismethod):
        if not name.startswith("test_"):
            continue
        check = name.removeprefix("test_").replace("_", " ")
        with tempfile.TemporaryDirectory() as place:
            takes_folder = "tmp_path" in inspect.signature(test).parameters
            arguments = {"tmp_path": Path(place)} if takes_folder else {}
            yield Finding(subject, check, _fault(partial(test, **arguments)))


def _tester(
    descriptor: MethodDescriptor | StrategyDescriptor, modules: Sequence[object]
) -> tuple[MethodTester | None, str | None]:
    """A tester that suits what one erasure shows: scopes, kind of edit, whether it has a loss."""
    is_strategy = isinstance(descriptor, StrategyDescriptor)
    base = StrategyTester if is_strategy else MethodTester
    own: dict[str, Any] = {"plugins": modules}
    own["strategy" if is_strategy else "method"] = descriptor.name
    tester: MethodTester = type(base.__name__, (base,), own)()
    history: list[dict[str, Any]] = []
    inference = ""
    scopes, refusal = [], ""
    for scope in SCOPES:
        try:
            edit = tester.erase(tiny_model(), scope=scope)
            history = edit.history
            inference = edit.inference.name if edit.inference and not edit.tensors else ""
        except ScopeError as error:
            refusal = str(error)
        except Exception as error:
            return None, _words(error)
        else:
            scopes.append(scope)
    if not scopes:
        return None, refusal
    seeded = any(record["loss"] is not None for record in history)
    own.update(scopes=scopes, seeded=seeded, inference=inference)
    return type(base.__name__, (base,), own)(), None


def _fault(test: Callable[[], None]) -> str | None:
    try:
        test()
    except Exception as error:
        return _words(error)
    return None


def _words(error: Exception) -> str:
    """What was raised; of an assertion without words, the line that failed."""
    if isinstance(error, AssertionError) and not str(error).strip():
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"not so: {(frame.line or '').removeprefix('assert ')}"
    lines = str(error).splitlines()
    return lines[0] if isinstance(error, AssertionError) else describe_fault(error)

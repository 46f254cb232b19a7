"""The hooks a plugin may implement. Entry-point group: `erasekit`.

A plugin's entry point names a module that imports no torch; its hooks return descriptors, whose
targets are imported only when they are used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from erasekit.plugin import descriptors as kinds

if TYPE_CHECKING:
    import typer

GROUP = "erasekit"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def erasekit_register_methods() -> Iterable[kinds.MethodDescriptor]:  # type: ignore[empty-body]
    """Erasure methods."""


@hookspec
def erasekit_register_strategies() -> Iterable[kinds.StrategyDescriptor]:  # type: ignore[empty-body]
    """Preservation strategies."""


@hookspec
def erasekit_register_inference_parts() -> Iterable[kinds.InferenceDescriptor]:  # type: ignore[empty-body]
    """What edits do while a pipeline draws: adapters, and hooks on its guidance."""


@hookspec
def erasekit_register_attacks() -> Iterable[kinds.AttackDescriptor]:  # type: ignore[empty-body]
    """Attacks on erased models."""


@hookspec
def erasekit_register_scorers() -> Iterable[kinds.ScorerDescriptor]:  # type: ignore[empty-body]
    """Scorers."""


@hookspec
def erasekit_register_metrics() -> Iterable[kinds.MetricDescriptor]:  # type: ignore[empty-body]
    """Metrics."""


@hookspec
def erasekit_register_suites() -> Iterable[kinds.SuiteDescriptor]:  # type: ignore[empty-body]
    """Suites."""


@hookspec
def erasekit_register_concept_spaces() -> Iterable[kinds.ConceptSpaceDescriptor]:  # type: ignore[empty-body]
    """Sources of words for the concept space R."""


@hookspec
def erasekit_register_families() -> Iterable[kinds.FamilyDescriptor]:  # type: ignore[empty-body]
    """Families of models."""


@hookspec
def erasekit_register_models() -> Iterable[kinds.ModelDescriptor]:  # type: ignore[empty-body]
    """Models."""


@hookspec
def erasekit_register_commands(app: typer.Typer) -> None:
    """Add commands to the command line."""

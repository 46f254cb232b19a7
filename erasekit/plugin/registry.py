"""Names to descriptors, over all plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

from erasekit.errors import PluginError, UnknownNameError
from erasekit.plugin.descriptors import (
    AttackDescriptor,
    ConceptSpaceDescriptor,
    Descriptor,
    FamilyDescriptor,
    InferenceDescriptor,
    MethodDescriptor,
    MetricDescriptor,
    ModelDescriptor,
    ScorerDescriptor,
    StrategyDescriptor,
    SuiteDescriptor,
)
from erasekit.plugin.manager import PluginManager, attempt, describe_fault

D = TypeVar("D", bound=Descriptor)

HOOKS: dict[type[Descriptor], str] = {
    MethodDescriptor: "erasekit_register_methods",
    StrategyDescriptor: "erasekit_register_strategies",
    InferenceDescriptor: "erasekit_register_inference_parts",
    AttackDescriptor: "erasekit_register_attacks",
    ScorerDescriptor: "erasekit_register_scorers",
    MetricDescriptor: "erasekit_register_metrics",
    SuiteDescriptor: "erasekit_register_suites",
    ConceptSpaceDescriptor: "erasekit_register_concept_spaces",
    FamilyDescriptor: "erasekit_register_families",
    ModelDescriptor: "erasekit_register_models",
}
"""Each kind of descriptor, and the hook that gives them."""


def _all(kind: type[D]) -> Callable[[Registry], dict[str, D]]:
    def listing(self: Registry) -> dict[str, D]:
        """All of one kind, by name; without names that several plugins claim."""
        table = self.table(kind)
        return {name: claims[0][1] for name, claims in table.items() if len(claims) == 1}  # type: ignore[misc]

    return listing


def _one(kind: type[D]) -> Callable[[Registry, str], D]:
    def lookup(self: Registry, name: str) -> D:
        """The one of this name.

        Raises:
            UnknownNameError: there is none.
            PluginError: several plugins claim it.
        """
        table = self.table(kind)
        claims = table.get(name)
        if not claims:
            raise UnknownNameError(kind.kind, name, table)
        if len(claims) > 1:
            raise PluginError(_collision(kind.kind, name, claims))
        return claims[0][1]  # type: ignore[return-value]

    return lookup


class Registry:
    """What is registered, by kind and name.

    A plugin whose hook raises or returns something else than descriptors is listed as broken and
    skipped. A name that two plugins claim is an error that names both, raised when that name is
    asked for, so that the other names stay usable.
    """

    def __init__(self, manager: PluginManager | None = None) -> None:
        self.manager = manager or PluginManager()
        self._tables: dict[type[Descriptor], dict[str, list[tuple[str, Descriptor]]]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copied model shares its registry: plugins are modules, and of those there is one."""
        return self

    methods, method = _all(MethodDescriptor), _one(MethodDescriptor)
    strategies, strategy = _all(StrategyDescriptor), _one(StrategyDescriptor)
    inference_parts, inference_part = _all(InferenceDescriptor), _one(InferenceDescriptor)
    attacks, attack = _all(AttackDescriptor), _one(AttackDescriptor)
    scorers, scorer = _all(ScorerDescriptor), _one(ScorerDescriptor)
    metrics, metric = _all(MetricDescriptor), _one(MetricDescriptor)
    suites, suite = _all(SuiteDescriptor), _one(SuiteDescriptor)
    concept_spaces, concept_space = _all(ConceptSpaceDescriptor), _one(ConceptSpaceDescriptor)
    families, family = _all(FamilyDescriptor), _one(FamilyDescriptor)
    models, model = _all(ModelDescriptor), _one(ModelDescriptor)

    def owner(self, descriptor: Descriptor) -> str:
        """Name of the plugin that registered `descriptor`."""
        for table in self._tables.values():
            for plugin, registered in table.get(descriptor.name, []):
                if registered is descriptor:
                    return plugin
        raise KeyError(descriptor.name)

    def version(self, descriptor: Descriptor) -> str:
        """Version of the package whose plugin registered `descriptor`."""
        owner = self.owner(descriptor)
        return next((p.version for p in self.manager.plugins if p.name == owner), "unknown")

    def collisions(self) -> list[str]:
        """A sentence for every name that more than one plugin claims, over all kinds."""
        self.load_all()
        return [
            _collision(kind.kind, name, claims)
            for kind, table in self._tables.items()
            for name, claims in table.items()
            if len(claims) > 1
        ]

    def load_all(self) -> None:
        """Ask every plugin for everything, so that each broken one is known."""
        for kind in HOOKS:
            self.table(kind)

    def owned(self, plugin: str) -> list[Descriptor]:
        """All that the plugin of this name registered."""
        self.load_all()
        return [
            descriptor
            for table in self._tables.values()
            for claims in table.values()
            for owner, descriptor in claims
            if owner == plugin
        ]

    def table(self, kind: type[Descriptor]) -> dict[str, list[tuple[str, Descriptor]]]:
        """By name: each plugin that claims it, and what it registered."""
        if kind in self._tables:
            return self._tables[kind]
        hook = HOOKS[kind]
        table: dict[str, list[tuple[str, Descriptor]]] = {}
        for plugin, result in self.manager.call_each(hook):
            descriptors = attempt(lambda: _of_kind(result, kind, hook))  # noqa: B023
            if fault := describe_fault(descriptors):
                self.manager.mark_broken(plugin, fault)
                continue
            for descriptor in descriptors:
                table.setdefault(descriptor.name, []).append((plugin, descriptor))
        self._tables[kind] = table
        return table


def _of_kind(result: Any, kind: type[Descriptor], hook: str) -> list[Descriptor]:
    """What a hook gave, as a list."""
    if isinstance(result, BaseException):
        raise result
    descriptors = list(result)
    for descriptor in descriptors:
        if not isinstance(descriptor, kind):
            raise TypeError(f"{hook} gave {descriptor!r}, not a {kind.__name__}")
        if not isinstance(descriptor.name, str) or not descriptor.name.isprintable():
            raise TypeError(f"{hook} gave a {kind.kind} with the name {descriptor.name!r}")
    return descriptors


def _collision(kind: str, name: str, claims: list[tuple[str, Descriptor]]) -> str:
    owners = list(dict.fromkeys(repr(plugin) for plugin, _ in claims))
    if len(owners) == 1:
        return f"The {kind} {name!r} is registered twice by {owners[0]}; rename one of them."
    return f"The {kind} {name!r} is claimed by {' and '.join(owners)}; uninstall one of them."

"""Names to descriptors, over all plugins."""

from __future__ import annotations

from typing import Any, TypeVar

from erasekit.errors import PluginError, UnknownNameError
from erasekit.plugin.descriptors import (
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
    ScorerDescriptor: "erasekit_register_scorers",
    MetricDescriptor: "erasekit_register_metrics",
    SuiteDescriptor: "erasekit_register_suites",
    ConceptSpaceDescriptor: "erasekit_register_concept_spaces",
    FamilyDescriptor: "erasekit_register_families",
    ModelDescriptor: "erasekit_register_models",
}
"""Each kind of descriptor, and the hook that gives them."""


class Registry:
    """What is registered, by kind and name.

    A plugin whose hook raises or returns something else than descriptors is listed as broken and
    skipped. A name that two plugins claim is an error that names both, raised when that name is
    asked for, so that the other names stay usable.
    """

    def __init__(self, manager: PluginManager | None = None) -> None:
        self.manager = manager or PluginManager()
        self._tables: dict[type[Descriptor], dict[str, list[tuple[str, Descriptor]]]] = {}

    def methods(self) -> dict[str, MethodDescriptor]:
        return self._all(MethodDescriptor)

    def strategies(self) -> dict[str, StrategyDescriptor]:
        return self._all(StrategyDescriptor)

    def inference_parts(self) -> dict[str, InferenceDescriptor]:
        return self._all(InferenceDescriptor)

    def scorers(self) -> dict[str, ScorerDescriptor]:
        return self._all(ScorerDescriptor)

    def metrics(self) -> dict[str, MetricDescriptor]:
        return self._all(MetricDescriptor)

    def suites(self) -> dict[str, SuiteDescriptor]:
        return self._all(SuiteDescriptor)

    def concept_spaces(self) -> dict[str, ConceptSpaceDescriptor]:
        return self._all(ConceptSpaceDescriptor)

    def families(self) -> dict[str, FamilyDescriptor]:
        return self._all(FamilyDescriptor)

    def models(self) -> dict[str, ModelDescriptor]:
        return self._all(ModelDescriptor)

    def method(self, name: str) -> MethodDescriptor:
        return self._one(MethodDescriptor, name)

    def strategy(self, name: str) -> StrategyDescriptor:
        return self._one(StrategyDescriptor, name)

    def inference_part(self, name: str) -> InferenceDescriptor:
        return self._one(InferenceDescriptor, name)

    def scorer(self, name: str) -> ScorerDescriptor:
        return self._one(ScorerDescriptor, name)

    def metric(self, name: str) -> MetricDescriptor:
        return self._one(MetricDescriptor, name)

    def suite(self, name: str) -> SuiteDescriptor:
        return self._one(SuiteDescriptor, name)

    def concept_space(self, name: str) -> ConceptSpaceDescriptor:
        return self._one(ConceptSpaceDescriptor, name)

    def family(self, name: str) -> FamilyDescriptor:
        return self._one(FamilyDescriptor, name)

    def model(self, name: str) -> ModelDescriptor:
        return self._one(ModelDescriptor, name)

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
            self._table(kind)

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

    def _table(self, kind: type[Descriptor]) -> dict[str, list[tuple[str, Descriptor]]]:
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

    def _all(self, kind: type[D]) -> dict[str, D]:
        table = self._table(kind)
        return {name: claims[0][1] for name, claims in table.items() if len(claims) == 1}  # type: ignore[misc]

    def _one(self, kind: type[D], name: str) -> D:
        table = self._table(kind)
        claims = table.get(name)
        if not claims:
            raise UnknownNameError(kind.kind, name, table)
        if len(claims) > 1:
            raise PluginError(_collision(kind.kind, name, claims))
        return claims[0][1]  # type: ignore[return-value]


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

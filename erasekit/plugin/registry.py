"""Names to descriptors, over all plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any, Self, TypeVar

from erasekit.errors import PluginError, UnknownNameError
from erasekit.plugin import descriptors as kinds
from erasekit.plugin.descriptors import Descriptor
from erasekit.plugin.manager import PluginManager, attempt, describe_fault

D = TypeVar("D", bound=Descriptor)

HOOKS: dict[type[Descriptor], str] = {
    kinds.MethodDescriptor: "erasekit_register_methods",
    kinds.StrategyDescriptor: "erasekit_register_strategies",
    kinds.InferenceDescriptor: "erasekit_register_inference_parts",
    kinds.AttackDescriptor: "erasekit_register_attacks",
    kinds.ScorerDescriptor: "erasekit_register_scorers",
    kinds.MetricDescriptor: "erasekit_register_metrics",
    kinds.SuiteDescriptor: "erasekit_register_suites",
    kinds.ConceptSpaceDescriptor: "erasekit_register_concept_spaces",
    kinds.FamilyDescriptor: "erasekit_register_families",
    kinds.ModelDescriptor: "erasekit_register_models",
}
"""Each kind of descriptor, and the hook that gives them."""


Listing = Callable[["Registry"], dict[str, D]]
Lookup = Callable[["Registry", str], D]


def _by_name(kind: type[D]) -> tuple[Listing[D], Lookup[D]]:
    def listing(self: Registry) -> dict[str, D]:
        """All of one kind, by name; without names that several plugins claim."""
        table = self.table(kind)
        return {name: claims[0][1] for name, claims in table.items() if len(claims) == 1}  # type: ignore[misc]

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

    return listing, lookup


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

    methods, method = _by_name(kinds.MethodDescriptor)
    strategies, strategy = _by_name(kinds.StrategyDescriptor)
    inference_parts, inference_part = _by_name(kinds.InferenceDescriptor)
    attacks, attack = _by_name(kinds.AttackDescriptor)
    scorers, scorer = _by_name(kinds.ScorerDescriptor)
    metrics, metric = _by_name(kinds.MetricDescriptor)
    suites, suite = _by_name(kinds.SuiteDescriptor)
    concept_spaces, concept_space = _by_name(kinds.ConceptSpaceDescriptor)
    families, family = _by_name(kinds.FamilyDescriptor)
    models, model = _by_name(kinds.ModelDescriptor)

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

    def owned(self, plugin: str) -> list[Descriptor]:
        """All that the plugin of this name registered."""
        claims = chain.from_iterable(chain(*(self.table(kind).values() for kind in HOOKS)))
        return [descriptor for owner, descriptor in claims if owner == plugin]

    def collisions(self) -> list[str]:
        """A sentence for every name that more than one plugin claims, over all kinds."""
        return [
            _collision(kind.kind, name, claims)
            for kind in HOOKS
            for name, claims in self.table(kind).items()
            if len(claims) > 1
        ]

    def table(self, kind: type[Descriptor]) -> dict[str, list[tuple[str, Descriptor]]]:
        """By name: each plugin that claims it, and what it registered."""
        if kind in self._tables:
            return self._tables[kind]
        hook = HOOKS[kind]
        table: dict[str, list[tuple[str, Descriptor]]] = {}
        for plugin, result in self.manager.call_each(hook):
            descriptors = attempt(partial(descriptors_of, result, kind, hook))
            if fault := describe_fault(descriptors):
                self.manager.mark_broken(plugin, fault)
                continue
            for descriptor in descriptors:
                table.setdefault(descriptor.name, []).append((plugin, descriptor))
        self._tables[kind] = table
        return table


def descriptors_of(result: Any, kind: type[Descriptor], hook: str) -> list[Descriptor]:
    """What a plugin's hook gave or raised, as a list.

    Raises:
        TypeError: it is no list of descriptors of this kind with printable names.
    """
    if isinstance(result, BaseException):
        raise result
    if not isinstance(result, Iterable):
        raise TypeError(f"{hook} gave {result!r}, not a list of {kind.__name__}")
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

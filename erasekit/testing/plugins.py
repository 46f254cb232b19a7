"""What every plugin must do, whatever it registers, as a test class to inherit."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar

from erasekit.methods.base import ErasureMethod
from erasekit.methods.gradient import PreservationStrategy
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.testing.checks import slow_hooks

CONFIGURED = (ErasureMethod, PreservationStrategy)
"""What has hyperparameters."""


class PluginTester:
    """A plugin as erasekit finds it. It need not be installed.

    `erasekit plugin check` does more and takes longer; this is for a package's own tests.

    Class attributes to set:
        hooks: the module with its hooks.
        registers: kind and name of all that it registers, such as `("method mine",)`.
    """

    hooks: ClassVar[ModuleType]
    registers: ClassVar[Sequence[str]]

    def registry(self) -> Registry:
        """Everything installed, and the plugin."""
        manager = PluginManager()
        if not manager.pluggy.is_registered(self.hooks):
            manager.register(self.hooks, "under test")
        return Registry(manager)

    def test_it_registers_what_it_says_and_claims_no_taken_name(self) -> None:
        registry = self.registry()
        own = str(registry.manager.pluggy.get_name(self.hooks))
        clashes = registry.collisions()
        assert clashes == [], " ".join(clashes)
        faults = [p.error for p in registry.manager.plugins if p.name == own and p.error]
        assert faults == [], faults[0]
        found = [f"{descriptor.kind} {descriptor.name}" for descriptor in registry.owned(own)]
        assert sorted(found) == sorted(self.registers), f"it registers {', '.join(found)}"

    def test_all_that_it_registers_can_be_loaded_and_is_described(self) -> None:
        registry = self.registry()
        for descriptor in registry.owned(str(registry.manager.pluggy.get_name(self.hooks))):
            target = descriptor.load()
            assert descriptor.summary, f"{descriptor.name} has no summary"
            if isinstance(target, type) and issubclass(
                target, ErasureMethod | PreservationStrategy
            ):
                settings = target.Config.model_fields
                bare = [name for name, field in settings.items() if not field.description]
                assert bare == [], f"{descriptor.name}: no description of {bare}"

    def test_its_hooks_import_no_torch(self) -> None:
        fault = slow_hooks(self.hooks.__name__)
        assert fault is None, fault

"""The plugin as erasekit finds it: installed, sound, torch-free."""

from __future__ import annotations

import subprocess
import sys

from erasekit.plugin.registry import Registry


def test_it_is_found_without_fault_and_claims_no_taken_name() -> None:
    registry = Registry()
    assert registry.collisions() == []
    plugin = next(p for p in registry.manager.plugins if p.distribution == "erasekit-age")
    assert (plugin.name, plugin.error) == ("erasekit-age:age", None)


def test_everything_it_registers_can_be_loaded() -> None:
    registry = Registry()
    listed = (*registry.methods().values(), *registry.strategies().values())
    found = [m for m in listed if registry.owner(m) == "erasekit-age:age"]
    assert len(found) == 2
    assert all(callable(descriptor.load()) for descriptor in found)


def test_its_hooks_import_no_torch() -> None:
    check = "import sys, erasekit_age.hooks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)

"""The plugin as erasekit finds it: installed, sound, torch-free."""

from __future__ import annotations

import subprocess
import sys

from erasekit.plugin.registry import Registry


def test_it_is_found_without_fault_and_claims_no_taken_name() -> None:
    registry = Registry()
    assert registry.collisions() == []
    plugin = next(p for p in registry.manager.plugins if p.distribution == "erasekit-mace")
    assert (plugin.name, plugin.error) == ("erasekit-mace:mace", None)


def test_everything_it_registers_can_be_loaded() -> None:
    registry = Registry()
    found = [m for m in registry.methods().values() if registry.owner(m) == "erasekit-mace:mace"]
    assert len(found) == 1
    assert all(callable(descriptor.load()) for descriptor in found)


def test_its_hooks_import_no_torch() -> None:
    check = "import sys, erasekit_mace.hooks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)

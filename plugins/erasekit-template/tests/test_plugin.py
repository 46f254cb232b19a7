"""The plugin as erasekit finds it: installed, sound, torch-free."""

from __future__ import annotations

import subprocess
import sys

from erasekit.bench.suite import Suite, build_suite
from erasekit.plugin.registry import Registry


def test_it_is_found_without_fault_and_claims_no_taken_name() -> None:
    registry = Registry()
    assert registry.collisions() == []
    plugin = next(p for p in registry.manager.plugins if p.distribution == "erasekit-template")
    assert (plugin.name, plugin.error) == ("erasekit-template:template", None)


def test_everything_it_registers_can_be_loaded() -> None:
    registry = Registry()
    found = [
        descriptor
        for listing in (
            registry.methods(),
            registry.strategies(),
            registry.scorers(),
            registry.suites(),
        )
        for descriptor in listing.values()
        if registry.owner(descriptor) == "erasekit-template:template"
    ]
    assert len(found) == 5
    assert all(callable(descriptor.load()) for descriptor in found)


def test_the_suite_is_built_for_any_model() -> None:
    registry = Registry()
    suite = build_suite(registry.suite("template-colours"), registry.model("icons"))
    assert isinstance(suite, Suite)
    assert registry.scorer(suite.scorer)
    assert all(registry.method(method) for method in suite.methods)
    assert {concept.split for concept in suite.concepts} == {"pool", "held-out"}


def test_its_hooks_import_no_torch() -> None:
    check = "import sys, erasekit_template.hooks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)

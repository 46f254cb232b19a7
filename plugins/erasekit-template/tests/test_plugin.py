"""The plugin as erasekit finds it, and its suite."""

from __future__ import annotations

from erasekit.bench.suite import Suite, build_suite
from erasekit.testing import PluginTester
from erasekit_template import hooks


class TestPlugin(PluginTester):
    """Every test of `PluginTester`."""

    hooks = hooks
    registers = (
        "method template-closed-form",
        "method template-hardest",
        "strategy template-hardest",
        "attack template-typos",
        "scorer template-colour",
        "suite template-colours",
    )

    def test_the_suite_is_built_for_any_model(self) -> None:
        registry = self.registry()
        suite = build_suite(registry.suite("template-colours"), registry.model("icons"))
        assert isinstance(suite, Suite)
        assert registry.scorer(suite.scorer)
        assert all(registry.method(method) for method in suite.methods)
        assert {concept.split for concept in suite.concepts} == {"pool", "held-out"}

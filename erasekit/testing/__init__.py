"""Test classes for whoever writes a plugin, and a tiny model to run on.

Subclass one in a test file; pytest collects what it inherits:

    from erasekit.testing import AttackTester, MethodTester, PluginTester, StrategyTester

    class TestMyAttack(AttackTester):
        attack = "my-attack"

    class TestMyMethod(MethodTester):
        method = "my-method"

    class TestMyStrategy(StrategyTester):
        strategy = "my-strategy"

    class TestMyPlugin(PluginTester):
        hooks = my_package.hooks
        registers = ("method my-method", "strategy my-strategy")

Every test trains for real, on a random model with Stable Diffusion 1's anatomy that is so small
that a step takes about 0.02 s on one core. This package itself needs no pytest.
"""

from erasekit.testing.attacks import AttackTester, ColourScorer, tiny_edit
from erasekit.testing.prepared import Prepared, UNetPass, prepared
from erasekit.testing.testers import (
    MethodTester,
    PluginTester,
    StrategyTester,
    assert_same_tensors,
    weights,
)
from erasekit.testing.tiny import WORDS, build_tiny_folder, tiny_folder, tiny_model

__all__ = [
    "WORDS",
    "AttackTester",
    "ColourScorer",
    "MethodTester",
    "PluginTester",
    "Prepared",
    "StrategyTester",
    "UNetPass",
    "assert_same_tensors",
    "build_tiny_folder",
    "prepared",
    "tiny_edit",
    "tiny_folder",
    "tiny_model",
    "weights",
]

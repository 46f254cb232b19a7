"""The attack, under the tests that every attack must pass."""

from __future__ import annotations

from erasekit.testing import AttackTester
from erasekit_template import hooks


class TestTypos(AttackTester):
    """Every test of `AttackTester`."""

    attack = "template-typos"
    plugins = (hooks,)

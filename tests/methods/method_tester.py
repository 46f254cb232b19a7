"""The shared tester, which ships with the package so that plugins may use it too."""

from erasekit.testing import MethodTester, StrategyTester

__all__ = ["MethodTester", "StrategyTester"]

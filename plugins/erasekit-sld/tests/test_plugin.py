"""The plugin as erasekit finds it."""

from __future__ import annotations

from erasekit.testing import PluginTester
from erasekit_sld import hooks


class TestPlugin(PluginTester):
    """Every test of `PluginTester`."""

    hooks = hooks
    registers = ("method sld", "inference part sld")

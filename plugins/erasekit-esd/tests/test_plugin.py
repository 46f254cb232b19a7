"""The plugin as erasekit finds it."""

from __future__ import annotations

from erasekit.testing import PluginTester
from erasekit_esd import hooks


class TestPlugin(PluginTester):
    """Every test of `PluginTester`."""

    hooks = hooks
    registers = (
        "method esd",
        "method esd-all",
        "method esd-self",
        "method esd-u",
        "method esd-x",
        "method esd-x-strict",
    )

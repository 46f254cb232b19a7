"""MACE: all that erasekit asks of a method, the closed forms and one step written out."""

from __future__ import annotations

from erasekit.testing import MethodTester
from erasekit_mace import hooks

QUICK = {"images": 2, "sampling_steps": 3, "learning_rate": 2e-2}


class TestMace(MethodTester):
    """Every test of `MethodTester`."""

    method = "mace"
    plugins = (hooks,)
    scopes = ("xattn-kv", "xattn")
    settings = QUICK

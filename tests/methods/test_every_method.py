"""The shared tester over every method that is registered, so a new one gets its tests for free."""

from __future__ import annotations

from erasekit.plugin.registry import Registry
from tests.methods.method_tester import MethodTester

for _name in Registry().methods():
    _class = f"Test_{_name.replace('-', '_')}"
    globals()[_class] = type(_class, (MethodTester,), {"method": _name})
del MethodTester

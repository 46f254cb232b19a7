"""Built-in suites. No torch here."""

from __future__ import annotations

from erasekit.plugin.descriptors import SuiteDescriptor
from erasekit.plugin.hookspecs import hookimpl


@hookimpl
def erasekit_register_suites() -> list[SuiteDescriptor]:
    return [
        SuiteDescriptor(
            "icons-mini",
            "a spread of 40 concepts of the model in the wheel, two images each",
            "erasekit.bench.icons:icons_mini",
        ),
        SuiteDescriptor(
            "icons",
            "all concepts of the model in the wheel, four images each",
            "erasekit.bench.icons:icons",
        ),
    ]

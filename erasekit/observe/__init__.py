"""The paper's three observations (Bui et al., NeurIPS 2024), each measured and judged.

One module each: `impact`, `spectrum`, `preserve`. Registers their commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from erasekit.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def erasekit_register_commands(app: typer.Typer) -> None:
    from erasekit.observe.commands import register

    register(app)

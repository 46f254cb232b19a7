"""An edit in the forms that other programs read. Registers the commands that share edits.

The table of forms is `erasekit.exports.formats.FORMATS`; it needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from erasekit.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def erasekit_register_commands(app: typer.Typer) -> None:
    from erasekit.exports.commands import register

    register(app)

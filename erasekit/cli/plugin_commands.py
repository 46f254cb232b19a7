"""Adds the commands of third parties, one plugin at a time, so that none can break the rest."""

from __future__ import annotations

import typer

from erasekit.plugin.manager import PluginManager, describe_fault


def add_plugin_commands(app: typer.Typer, manager: PluginManager) -> None:
    """Let every plugin add its commands to `app`.

    Each plugin fills an application of its own, which is built once to see that it is sound. A
    plugin that raises, declares a command that can't be built, or uses a name that is taken, adds
    nothing and is listed as broken.
    """
    own = typer.Typer()
    for plugin, result in manager.call_each("erasekit_register_commands", app=own):
        own.registered_callback = None
        try:
            if isinstance(result, Exception):
                raise result
            taken = _names(app) & _names(own)
            if taken:
                raise ValueError(f"command {', '.join(sorted(taken))} is taken")
        except Exception as fault:  # a plugin may fail in any way; it is listed, not raised
            manager.mark_broken(plugin, describe_fault(fault))
        else:
            app.registered_commands.extend(own.registered_commands)
            app.registered_groups.extend(own.registered_groups)
        own.registered_commands.clear()
        own.registered_groups.clear()


def _names(app: typer.Typer) -> set[str]:
    if not app.registered_commands and not app.registered_groups:
        return set()
    whole = typer.Typer()
    whole.callback()(_nothing)
    whole.registered_commands = app.registered_commands
    whole.registered_groups = app.registered_groups
    return set(typer.main.get_command(whole).list_commands(None))  # type: ignore[attr-defined]


def _nothing() -> None:
    """A callback, without which an application of one command would be no group."""

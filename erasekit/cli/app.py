"""The `erasekit` command: builds the application, runs it, and words its failures.

A command module imports no torch at its top and has a function `register(app)` that adds its
command; what needs torch is imported inside the command's function.
"""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import erasekit
from erasekit.cli.output import print_error, print_note
from erasekit.cli.plugin_commands import add_plugin_commands
from erasekit.errors import ErasekitError
from erasekit.plugin.registry import Registry

COMMANDS = (
    *("erase", "generate", "trace", "bench", "compare", "report", "observe"),
    *("export", "apply", "push"),
    *("methods", "suites", "scorers", "models", "plugins", "plugin"),
)
"""The built-in command modules of `erasekit.cli`, in the order of the help."""

INTERRUPTED = 130


def build_app(registry: Registry) -> typer.Typer:
    """The application with the built-in commands and those of `registry`'s plugins."""
    app = typer.Typer(
        name="erasekit",
        help="Erase concepts from text-to-image diffusion models, and measure what it costs.",
        epilog="Start with: erasekit erase --method gumbel --concept 'garbage truck'",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in COMMANDS:
        importlib.import_module(f"erasekit.cli.{name}").register(app)
    add_plugin_commands(app, registry.manager)
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. An `ErasekitError` becomes one sentence and its exit code."""
    registry = Registry()
    try:
        app = build_app(registry)
        for plugin in registry.manager.plugins:
            if plugin.error:
                print_note(f"The plugin {plugin.name!r} is broken and was skipped: {plugin.error}")
        app(args=arguments, prog_name="erasekit", obj=registry)
    except ErasekitError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_error("Interrupted.")
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print_error(f"No space left on the disk ({error.filename or error}); free some and retry.")
        sys.exit(ErasekitError.exit_code)
    raise AssertionError("the application returned without an exit code")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"erasekit {erasekit.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Holds the options that stand before a command."""

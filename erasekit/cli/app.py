"""The `erasekit` command: builds the application, runs it, and words its failures.

A command module imports no torch at its top, and has a function of the command's name, or where
there are several, `register(app)`. Built-in plugins and those of third parties add theirs by the
hook `erasekit_register_commands`.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Annotated, Any, NoReturn

import typer

import erasekit
from erasekit.cli.console import print_error, print_note, results_apart
from erasekit.errors import ConfigError, ErasekitError, Interrupted, PluginError
from erasekit.plugin.manager import PluginManager, attempt, describe_fault
from erasekit.plugin.registry import Registry

_OWN = ("erase", "generate", "trace", "bench", "attack", "compare", "report")
MODULES = {
    **{name: name for name in _OWN},
    **dict.fromkeys(("methods", "suites", "scorers", "models"), "listings"),
    **{"attacks": "attack", "plugin": "plugin", "plugins": "plugin"},
}
"""The module of `erasekit.cli` that each command is in, in the order of the help."""
PANELS = {
    "Make": ("erase", "generate"),
    "Measure": ("trace", "bench", "attack", "compare", "report", "observe"),
    "Share": ("export", "import", "apply", "push", "pull"),
    "Extend": ("methods", "suites", "attacks", "scorers", "models", "plugin", "plugins"),
}
"""Where the help shows the built-in commands; those of other plugins stand behind them."""
PLUGINS_PANEL = "Of plugins"

INTERRUPTED = 130
TRACEBACK_VARIABLE = "ERASEKIT_TRACEBACK"
"""Set to anything, it shows where in the code a failure comes from that is worded otherwise."""

UsageError: Any = typer.BadParameter.__base__
"""What the command line could not be read for, in every version of typer."""


def build_app(registry: Registry, command: str = "") -> typer.Typer:
    """The application with the built-in commands and those of `registry`'s plugins.

    Args:
        command: where it is a built-in one, it alone is imported.
    """
    app = typer.Typer(
        name="erasekit",
        help="Erase concepts from text-to-image diffusion models, and measure what it costs.",
        epilog="Start with: erasekit erase --method gumbel --concept 'garbage truck'",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    wanted = {MODULES[command]} if command in MODULES else set(MODULES.values())
    if "plugin" in wanted:  # which lists plugins whose commands are broken: all are needed
        wanted = set(MODULES.values())
    for name in dict.fromkeys(MODULES.values()):
        if name in wanted:
            module = importlib.import_module(f"erasekit.cli.{name}")
            if hasattr(module, "register"):
                module.register(app)
            else:
                app.command(name)(getattr(module, name))
    _guard(app)
    _show_in_panels(app)
    if len(wanted) > 1:
        add_plugin_commands(app, registry.manager)
        order = [*PANELS, PLUGINS_PANEL]
        for infos in _listed(app):
            infos.sort(key=lambda info: order.index(info.rich_help_panel))
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    What the user can mend becomes one sentence and its exit code; a bug keeps its traceback.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # what a terminal can't show is written as its code
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        registry = Registry()
        app = build_app(registry, typed[0] if typed else "")
        if "_ERASEKIT_COMPLETE" not in os.environ:
            for plugin in registry.manager.plugins:
                if plugin.error:
                    print_note(
                        f"The plugin {plugin.name!r} is broken and was skipped: {plugin.error}"
                    )
        command = typer.main.get_command(app)
        code = command.main(typed, "erasekit", standalone_mode=False, obj=registry)
    except BaseException as error:
        told = explained(error)
        if told is None:
            raise
        if TRACEBACK_VARIABLE in os.environ:
            traceback.print_exc()
        sentence, code = told
        if sentence:
            print_error(sentence)
    sys.exit(code if isinstance(code, int) else 0)


def explained(error: BaseException) -> tuple[str, int] | None:
    """A sentence and an exit code for what a user can mend; None for a bug."""
    if isinstance(error, ErasekitError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "Interrupted.", INTERRUPTED
    if isinstance(error, UsageError):
        return _usage(error), error.exit_code
    if isinstance(error, BrokenPipeError):  # who reads the output wants no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return "", 1
    sentence = None
    name, words = type(error).__name__, str(error)
    if isinstance(error, OSError) and error.errno is not None:
        where = repr(os.fsdecode(error.filename)) if error.filename else "A file"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = os.fsdecode(error.filename) if error.filename else words
            sentence = f"No space left on the disk ({where}); free some and retry."
        else:
            sentence = f"{where} can't be used ({error.strerror}); name another or mend it."
    elif isinstance(error, MemoryError) or "OutOfMemory" in name or "t allocate memory" in words:
        sentence = (
            "Out of memory; ask for less: fewer images, seeds or concepts, a smaller batch, "
            f"--dtype fp16, or another --device ({words.splitlines()[0] if words else name})."
        )
    elif isinstance(error, UnicodeError):
        sentence = f"A file or an argument is not UTF-8 text ({words}); write it in UTF-8."
    elif isinstance(error, RecursionError) and _within(error, ("tomllib", "json")):
        sentence = "A file is nested too deep to be read; name another or mend it."
    elif isinstance(error, ValueError) and "Exceeds the limit" in words:
        sentence = "A number has thousands of digits; write a smaller one."
    elif isinstance(error, ValueError) and "embedded null" in words:
        sentence = "A path has a character of code 0 in it; name another."
    elif isinstance(error, OverflowError):
        sentence = f"A number is too large ({words}); write a smaller one."
    elif isinstance(error, RuntimeError) and "home directory" in words:
        sentence = "A path begins with ~ and a name that no user here has; name another."
    return (sentence, ErasekitError.exit_code) if sentence else None


def _usage(error: Any) -> str:
    """Why the command line can't be read, and where to look; the help where nothing was typed."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return ""
    path = error.ctx.command_path if error.ctx else "erasekit"
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return f"{message}. See: {path} --help"


def _within(error: BaseException, packages: tuple[str, ...]) -> bool:
    """Whether it was raised in the code of one of these packages, or through it."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(str(f.f_globals.get("__name__")).split(".")[0] in packages for f in frames)


def _listed(app: typer.Typer) -> tuple[list[Any], list[Any]]:
    """What typer knows of the commands and the groups of `app`."""
    return app.registered_commands, app.registered_groups


def _guard(app: typer.Typer) -> None:
    """Guard the callbacks of all commands and groups that `app` has now."""
    for command in app.registered_commands:
        command.callback = guarded(command.callback)
    for inner in (group.typer_instance for group in app.registered_groups):
        if inner and inner.registered_callback:
            inner.registered_callback.callback = guarded(inner.registered_callback.callback)
        if inner:
            _guard(inner)


def _show_in_panels(app: typer.Typer, panel: str = "") -> None:
    """Say in which panel of the help commands stand that say nothing of it themselves."""
    own = {name: title for title, names in PANELS.items() for name in names}
    for info in chain(*_listed(app)):
        if not isinstance(info.rich_help_panel, str):
            info.rich_help_panel = panel or own.get(str(info.name))


def guarded(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """`callback` of a command of ours, which alone writes to standard output.

    A library or a plugin that ends the program is an error, and so is an argument that is no text.
    """
    if callback is None or hasattr(callback, "__wrapped__"):
        return callback

    @functools.wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(kwargs)
        try:
            with results_apart():
                return callback(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise Interrupted("Interrupted.") from error
        except SystemExit as error:
            raise PluginError(
                f"A plugin or a library ended the program (SystemExit: {error.code}); "
                "`erasekit plugins` lists the plugins."
            ) from error

    return run


def _check_arguments(values: dict[str, Any]) -> None:
    """Refuse text that is no Unicode."""
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            if type(one) is str and any("\ud800" <= letter <= "\udfff" for letter in one):
                raise ConfigError(f"--{name.replace('_', '-')} {one!r} is not UTF-8 text.")


def add_plugin_commands(app: typer.Typer, manager: PluginManager) -> None:
    """Let every plugin add its commands to `app`.

    Each plugin fills an application of its own, which is built once to see that it is sound. A
    plugin that raises, declares a command that can't be built, or uses a name that is taken, adds
    nothing and is listed as broken.
    """
    own, taken = typer.Typer(), _names(app)
    for plugin, result in manager.call_each("erasekit_register_commands", app=own):
        own.registered_callback = None
        ours = plugin.startswith("erasekit:")
        if not isinstance(result, BaseException):
            result = _names(own) if ours else attempt(lambda: _built_names(own))
            if isinstance(result, set) and result & taken:
                result = ValueError(f"command {', '.join(sorted(result & taken))} is taken")
        if fault := describe_fault(result):
            manager.mark_broken(plugin, fault)
        elif isinstance(result, set):
            taken |= result
            if ours:
                _guard(own)
            _show_in_panels(own, "" if ours else PLUGINS_PANEL)
        for infos, new in zip(_listed(app), _listed(own), strict=True):
            infos.extend(() if fault else new)
            new.clear()


def _names(app: typer.Typer) -> set[str]:
    """The names of an application's commands, where all are given."""
    return {str(info.name) for info in chain(*_listed(app))}


def _built_names(app: typer.Typer) -> set[str]:
    """The names of an application's commands, after building all of them."""
    if not any(_listed(app)):
        return set()
    whole = typer.Typer()
    whole.callback()(lambda: None)  # without one, an application of one command is no group
    whole.registered_commands, whole.registered_groups = _listed(app)
    return set(typer.main.get_command(whole).list_commands(None))  # type: ignore[attr-defined]


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

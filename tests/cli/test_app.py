"""The application: fast, torch-free, and one sentence for what the user can mend."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

import erasekit
from erasekit.cli import app as application
from erasekit.errors import ConfigError, Interrupted

Run = Callable[..., Any]

HEAVY = ("torch", "diffusers", "transformers", "open_clip", "matplotlib", "numpy")


def test_what_needs_no_model_imports_no_torch() -> None:
    commands = ("erase", "generate", "trace", "bench", "observe impact", "export", "plugin check")
    asked = ["--help", "--version", "methods --json", "plugins --json", "suites", "scorers"]
    asked += [f"{command} --help" for command in commands]
    check = (
        "import sys, erasekit.cli.app as app\n"
        "for line in sys.argv[1:]:\n"
        "    try:\n        app.main(line.split())\n"
        "    except SystemExit as end:\n"
        f"        heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "        print(line, end.code, heavy, file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", check, *asked], capture_output=True, text=True, check=True
    )
    assert run.stderr.splitlines() == [f"{line} 0 []" for line in asked]
    assert run.stdout


def test_help_answers_fast() -> None:
    """0.3 s after the interpreter's own start is the aim; twice that is allowed, of CPU time."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    bare = min(seconds("-c", "pass") for _ in range(3))
    assert min(seconds("-m", "erasekit", "--help") for _ in range(3)) - bare < 0.6


def test_help_names_every_command(run: Run) -> None:
    text = run("--help").out
    for panel, commands in application.PANELS.items():
        assert f"─ {panel} ─" in text
        for command in commands:
            assert f"│ {command} " in text
    assert "─ Commands ─" not in text, "a command of ours stands in no panel"


def test_no_arguments_show_the_help(run: Run) -> None:
    result = run()
    assert "Usage: erasekit" in result.out + result.err


def test_the_version(run: Run) -> None:
    assert run("--version").out.strip() == f"erasekit {erasekit.__version__}"


def test_an_unknown_command_or_option_is_code_2(run: Run) -> None:
    assert run("eraze").code == 2
    result = run("methods", "--jsn")
    assert result.code == 2
    assert "--jsn" in result.err


def _raising(error: BaseException) -> Callable[..., typer.Typer]:
    def build(registry: object, command: str) -> typer.Typer:
        app = typer.Typer()

        @app.command()
        def fail() -> None:
            raise error

        application._guard(app)
        return app

    return build


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (
            ConfigError("Setting x=[red] is wrong; use y."),
            2,
            "Error: Setting x=[red] is wrong; use y.",
        ),
        (Interrupted("Stopped; go on with --resume."), 130, "Error: Stopped; go on with --resume."),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            2,
            "Error: No space left on the disk (/x); free some and retry.",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "/x"),
            2,
            "Error: '/x' can't be used (File name too long); name another or mend it.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", b"/x\xff"),
            2,
            r"Error: '/x\udcff' can't be used (Permission denied); name another or mend it.",
        ),
        (
            MemoryError(),
            2,
            "Error: Out of memory; ask for less: fewer images, seeds or concepts, a smaller batch, "
            "--dtype fp16, or another --device (MemoryError).",
        ),
        (
            OverflowError("cannot convert float infinity to integer"),
            2,
            "Error: A number is too large (cannot convert float infinity to integer); write a "
            "smaller one.",
        ),
        (
            SystemExit(0),
            2,
            "Error: A plugin or a library ended the program (SystemExit: 0); `erasekit plugins` "
            "lists the plugins.",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
) -> None:
    monkeypatch.setattr(application, "build_app", _raising(error))
    result = run()
    assert (result.code, result.sentence, result.out) == (code, sentence, "")


def test_ctrl_c_is_code_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "build_app", _raising(KeyboardInterrupt()))
    assert run().code == 130


@pytest.mark.parametrize(
    "bug",
    [ZeroDivisionError("a bug"), ValueError("a bug"), RecursionError("a bug"), OSError("a bug")],
    ids=repr,
)
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
    monkeypatch.setattr(application, "build_app", _raising(bug))
    with pytest.raises(type(bug), match="a bug"):
        application.main([])


def test_where_a_failure_comes_from_is_shown_when_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "build_app", _raising(ConfigError("no")))
    monkeypatch.setenv(application.TRACEBACK_VARIABLE, "1")
    result = run()
    assert result.err.startswith("Traceback")
    assert result.err.endswith("Error: no\n")


LONG = "x" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["methods", "show", "gumbel", "--model", model]
            for model in ("", " ", LONG, "~nobody/x")
        ),
        ["suites", "show", LONG],
        ["generate", "--prompt", "x", "--model", LONG],
        ["generate", "--prompt", "x", "--edit", LONG],
        ["generate", "--prompt", "x", "--edit", "~nobody/x"],
        ["generate", "--prompt", "\udcff"],
        ["generate", "--prompt", "x", "--seed", "9" * 5000],
        ["report", LONG],
        ["report", "/proc/x"],
        ["trace", LONG],
        ["compare", LONG, LONG],
        ["export", LONG],
        ["bench", "status", LONG],
        ["plugin", "check", LONG],
        ["eraze"],
        ["methods", "show", "[red]:fire:\x1b]0;x\x07"],
        ["methods", "--no\x1b[2J"],
    ],
    ids=lambda arguments: " ".join(a[:12] for a in arguments).encode("unicode_escape").decode(),
)
def test_bad_input_is_one_short_line_and_code_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.sentence.startswith("Error: ")
    assert len(result.sentence) < 1500
    assert "\x1b" not in result.err


def test_python_m_erasekit_is_the_same_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "erasekit", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == f"erasekit {erasekit.__version__}"

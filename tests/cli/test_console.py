"""Results on standard output, everything else on standard error."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress

import pytest
from diffusers.utils import logging as diffusers_logging
from rich.progress import Progress
from transformers.utils import logging as transformers_logging

from erasekit.cli import console
from erasekit.cli.console import (
    PlainConsole,
    ProgressBar,
    RateColumn,
    json_ready,
    plain,
    print_error,
    print_json,
    print_note,
    quiet_libraries,
    results_apart,
    stderr,
    stdout,
    table,
    working,
)

HOSTILE = "run:fire:1 [red]x[/nope] \x1b]0;t\x07\x1b[2J\x9b1m \x7f\u202e\udc80 end"
SHOWN = r"run:fire:1 [red]x[/nope] \x1b]0;t\x07\x1b[2J\x9b1m \x7f\u202e\udc80 end"


def test_json_has_the_schema_first_and_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"delta": math.nan, "words": ("é", "[red]")})
    out = capsys.readouterr().out
    value = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(value.items()) == [("schema", 1), ("delta", None), ("words", ["é", "[red]"])]
    assert "é" in out


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, None),
        (1.5, 1.5),
        ({"a": [math.nan, {"b": -math.inf}]}, {"a": [None, {"b": None}]}),
        ({1: (2, 3)}, {"1": [2, 3]}),
        ("nan", "nan"),
        (None, None),
        (True, True),
    ],
)
def test_numbers_that_json_has_no_word_for_become_null(value: object, expected: object) -> None:
    assert json_ready(value) == expected


def test_an_error_is_one_line_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "The value [bold]x[/bold] is " + "very " * 60 + "long."
    print_error(sentence)
    print_note("and [this]")
    captured = capsys.readouterr()
    assert captured.err == f"Error: {sentence}\nNote: and [this]\n"
    assert captured.out == ""


def _bar(text: str) -> None:
    with ProgressBar(text, 3) as bar:
        bar.status(text)
        bar._progress.refresh()
        bar.start(text, 2)
        bar.advance(1)
        bar._progress.refresh()


def _working(text: str) -> None:
    with working(text) as say:
        say(text)


@pytest.mark.parametrize(
    "show",
    [
        lambda text: stdout().print(text, soft_wrap=True),
        lambda text: stdout().print(table(text, (text, "n"), [(text, 3)], right=("n",))),
        lambda text: stderr().print("a", text, 1, style="dim", soft_wrap=True),
        print_error,
        print_note,
        _bar,
        _working,
    ],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_text_of_others_is_no_markup_no_emoji_and_no_escape(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    show: Callable[[str], None],
    terminal: bool,
) -> None:
    if terminal:
        for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "400"), ("TERM", "xterm")):
            monkeypatch.setenv(name, value)
    else:
        monkeypatch.setenv("COLUMNS", "400")
    show(HOSTILE)
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    own = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")  # colours, and where a bar is drawn
    bare = own.sub("", printed)
    if printed:
        assert SHOWN in bare.replace("\n", " ") or show is _bar
        assert "run:fire:1 [red]x" in bare
    assert not console._UNSEEN.search(bare.replace("\r", ""))
    assert "\x1b[2J" not in printed
    if not terminal:
        assert bare == printed
        assert bool(printed) == (show not in (_bar, _working))


def test_a_table_is_laid_out_by_what_is_shown() -> None:
    out = io.StringIO()
    PlainConsole(out).print(table("", ("a", "b"), [("\x1b[1mx", "y"), ("longer", "z")]))
    lines = out.getvalue().splitlines()
    assert len({line.rstrip()[-1] for line in lines if line.strip()} - {"b", "y", "z"}) == 0
    assert len({line.index(end) for line, end in zip(lines[-2:], "yz", strict=True)}) == 1


def test_plain_keeps_lines_and_tabs_and_letters() -> None:
    assert plain("é\n\tA [x] :smile: \U0001f525") == "é\n\tA [x] :smile: \U0001f525"
    assert plain("a\rb\x00") == r"a\rb\x00"


def test_json_of_hostile_text_is_readable_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"x": HOSTILE})
    out = capsys.readouterr().out
    assert not console._UNSEEN.search(out)
    assert json.loads(out)["x"] == HOSTILE


def test_a_message_is_one_line_and_a_long_word_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("The value " + "x" * 5000 + " is\n  too long.")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"Error: The value {'x' * 80}... (5,000 characters) is too long."


def test_what_others_print_goes_to_standard_error() -> None:
    """By print, by the number of the file, and by a program that is started."""
    code = (
        "import os, sys, subprocess\n"
        "from erasekit.cli.console import results_apart, stdout, print_json\n"
        "print('before')\n"
        "with results_apart():\n"
        "    print('noise'); os.write(1, b'noise'); print('noise', file=sys.__stdout__)\n"
        "    subprocess.run(['echo', 'noise'])\n"
        "    print_json({'a': 1}); stdout().print('result')\n"
        "print('after')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == 'before\n{\n  "schema": 1,\n  "a": 1\n}\nresult\nafter\n'
    assert run.stderr.count("noise") == 4
    closed = f"import os; os.close(1)\n{code}"
    run = subprocess.run(
        [sys.executable, "-c", closed], capture_output=True, text=True, check=False
    )
    assert "Error" not in run.stderr.replace("OSError: [Errno 9] Bad file descriptor", "")


def test_results_apart_within_itself_and_after_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with suppress(RuntimeError), results_apart(), results_apart():
        stdout().print("result")
        raise RuntimeError
    assert sys.stdout is before
    assert capsys.readouterr().out == "result\n"


def test_a_long_task_says_so_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with ProgressBar("Erasing", 5) as bar:
        for now in (101.0, 110.0, 116.0, 117.0):  # noqa: B007
            bar.advance()
        bar.status("loss 0.1")
        now = 140.0
        bar.status("loss [red]")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"Erasing: 2 of 5, \d+ s left", first)
    assert re.fullmatch(r"Erasing: 4 of 5, loss \[red\], \d+ s left", second)


def test_a_total_may_grow(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("Observing") as bar:
        assert bar._task.total is None
        bar.expect(3)
        bar.expect(2)
        assert bar._task.total == 5


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("Drawing [x]", 3) as bar:
        bar.advance()
        bar.status("loss [red]")
        bar.start("Scoring", 2)
        bar.advance(2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_on_a_terminal_shows_count_rate_and_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar("Drawing", 4) as bar:
        bar.advance(2)
        bar.status("keeping bus")
        bar._progress.refresh()
    err = capsys.readouterr().err
    assert "Drawing" in err
    assert "2/4" in err
    assert "keeping bus" in err


def test_the_rate_is_units_per_second() -> None:
    bar = Progress()
    number = bar.add_task("x", total=10)
    task = bar.tasks[number]
    assert RateColumn().render(task).plain == ""
    task.finished_speed = 12.34
    assert RateColumn().render(task).plain == "12.3/s"


def test_the_libraries_are_silent_within_and_as_before_afterwards() -> None:
    libraries = (diffusers_logging, transformers_logging)
    before = [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries]
    with quiet_libraries():
        assert not any(lib.is_progress_bar_enabled() for lib in libraries)
        assert {lib.get_verbosity() for lib in libraries} == {diffusers_logging.ERROR}
        warnings.warn("noise", UserWarning, stacklevel=1)
    assert [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries] == before


def test_a_fault_within_restores_too() -> None:
    diffusers_logging.enable_progress_bar()
    with pytest.raises(RuntimeError), quiet_libraries():
        raise RuntimeError
    assert diffusers_logging.is_progress_bar_enabled()
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", UserWarning, stacklevel=1)

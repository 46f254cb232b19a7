"""Results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math

import pytest
from rich.progress import Progress

from erasekit.cli.output import (
    ProgressBar,
    RateColumn,
    json_ready,
    print_error,
    print_json,
    print_note,
    progress,
    stdout,
    table,
)


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


def test_cells_are_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    stdout().print(table("Things", ("name", "count"), [("[bold]x[/]", 3)], right=("count",)))
    assert "[bold]x[/]" in capsys.readouterr().out


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Drawing [x]", 3) as bar:
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

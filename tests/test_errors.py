"""User-facing errors: one sentence that names the value and the remedy."""

from __future__ import annotations

import doctest

import pytest

from erasekit import errors
from erasekit.errors import (
    ErasekitError,
    Interrupted,
    MissingExtraError,
    OutputLostError,
    UnknownNameError,
    nearest_name,
)


def test_an_unknown_name_suggests_the_nearest_and_lists_the_known() -> None:
    error = UnknownNameError("method", "gumble", ["pgd", "gumbel"])
    assert str(error) == "Unknown method 'gumble'; did you mean 'gumbel'? Known: gumbel, pgd."
    assert (error.kind, error.name, error.known) == ("method", "gumble", ["gumbel", "pgd"])


def test_an_unknown_name_with_nothing_near_suggests_nothing() -> None:
    assert str(UnknownNameError("suite", "zzz", ["icons"])) == "Unknown suite 'zzz'. Known: icons."


def test_an_unknown_name_where_nothing_is_known_still_is_a_sentence() -> None:
    assert str(UnknownNameError("model", "x", [], "Install one.")) == (
        "Unknown model 'x'. Install one."
    )


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("GUMBEL", ["gumbel"], "gumbel"),
        ("icons", ["Icons"], "Icons"),
        ("neutrl", ["neutral", "nearest"], "neutral"),
        ("xyz", ["gumbel"], None),
        ("", ["gumbel"], None),
    ],
)
def test_nearest_name(name: str, known: list[str], expected: str | None) -> None:
    assert nearest_name(name, known) == expected


def test_a_missing_extra_prints_the_line_that_installs_it() -> None:
    message = str(MissingExtraError("The English word list", "english"))
    assert "python -m pip install 'erasekit[english]'" in message


def test_exit_codes() -> None:
    def tree(root: type[ErasekitError]) -> list[type[ErasekitError]]:
        return [root, *(t for child in root.__subclasses__() for t in tree(child))]

    codes = {kind: kind.exit_code for kind in tree(ErasekitError)}
    assert codes.pop(Interrupted) == 130
    assert codes.pop(OutputLostError) == 1
    assert set(codes.values()) == {2}


def test_the_examples_hold() -> None:
    assert doctest.testmod(errors).failed == 0

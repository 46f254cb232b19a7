"""`plugin new` and `plugin check`, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

BROKEN = """
[project]
name = "erasekit-broken"
[project.entry-points.erasekit]
broken = "broken_hooks_of_a_test"
"""


def test_new_writes_a_package_and_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    written = run("plugin", "new", "My_Method", "--output", str(folder), "--json").json
    assert written["name"] == "erasekit-my-method"
    assert {"pyproject.toml", "src/erasekit_my_method/hooks.py"} <= set(written["files"])
    assert all((folder / name).is_file() for name in written["files"])
    text = run("plugin", "new", "other", "--output", str(tmp_path / "other")).out
    assert f"erasekit plugin check {tmp_path / 'other'}" in text.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "a b"), "'a b' makes no name of a plugin"),
        (("check", "nowhere"), "No plugin 'nowhere' is installed"),
    ],
)
def test_bad_input_is_one_sentence(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run("plugin", *arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err


def test_check_says_what_fails_and_exits_with_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pyproject.toml").write_text(BROKEN, encoding="utf-8")
    (tmp_path / "broken_hooks_of_a_test.py").write_text("import no_such_module", encoding="utf-8")
    result = run("plugin", "check", str(tmp_path), "--json")
    assert result.code == 1
    (finding,) = result.json["findings"]
    assert finding["subject"] == "plugin 'broken'"
    assert finding["fault"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert "1 of 1 fail." in run("plugin", "check", str(tmp_path)).out

"""Finding a plugin by its folder or by the name it is installed under."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from erasekit.errors import PluginError
from erasekit.plugin.lookup import find_plugin

SOURCE = "@hookimpl\ndef erasekit_register_methods(): return []"


@pytest.mark.parametrize("name", ["erasekit-acme", "acme", "erasekit-acme:main"])
def test_by_name(install: Callable[..., None], name: str) -> None:
    install("erasekit-acme", SOURCE)
    assert [(p.name, p.value) for p in find_plugin(name)] == [("main", "erasekit_acme")]


def test_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "src").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project.entry-points.erasekit]\na = "acme.hooks"\n', encoding="utf-8"
    )
    assert [(p.name, p.value) for p in find_plugin(str(tmp_path))] == [("a", "acme.hooks")]
    assert sys.path[0] == str(tmp_path / "src")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no pyproject.toml"),
        ("[project", "is no TOML"),
        ("[project]\n", r"has no table \[project.entry-points.erasekit\]; add one"),
    ],
)
def test_a_folder_that_is_no_plugin(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PluginError, match=words):
        find_plugin(str(tmp_path))


def test_an_unknown_name_names_what_there_is() -> None:
    with pytest.raises(PluginError, match=r"No plugin 'nowhere' is installed.*erasekit"):
        find_plugin("nowhere")

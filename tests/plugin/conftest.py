"""Plugins that are really installed: a module and its metadata in a folder on the path."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., None]

PREAMBLE = """
from erasekit.plugin.descriptors import *
from erasekit.plugin.hookspecs import hookimpl

"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path`, forgotten with all of its modules afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """`install("acme", source)`: a distribution "acme" 1.2 with one entry point, "main"."""

    def do(distribution: str, source: str, *, points: str = "") -> None:
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(PREAMBLE + textwrap.dedent(source), encoding="utf-8")
        metadata = site / f"{module}-1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", encoding="utf-8"
        )
        (metadata / "entry_points.txt").write_text(
            f"[erasekit]\n{points or f'main = {module}'}\n", encoding="utf-8"
        )

    return do

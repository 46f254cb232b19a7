"""Cells follow the source that computes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import erasekit
from erasekit.bench import identity, source
from erasekit.bench.source import SAMPLING, TRAINING, source_hash


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package's sources, which `source_hash` reads in place of the package's."""
    root = tmp_path / "erasekit"
    for part in TRAINING:
        origin = Path(erasekit.__file__).parent / part
        copy = shutil.copytree if origin.is_dir() else shutil.copy
        root.mkdir(exist_ok=True)
        copy(origin, root / part)
    source_hash.cache_clear()
    monkeypatch.setattr(source.erasekit, "__file__", str(root / "__init__.py"))
    yield root
    source_hash.cache_clear()


def hashes() -> tuple[str, str]:
    source_hash.cache_clear()
    return source_hash(TRAINING), source_hash(SAMPLING)


def test_a_changed_line_changes_what_depends_on_it(copied: Path) -> None:
    before = hashes()
    (copied / "methods" / "notes.txt").write_text("no source")
    assert hashes() == before
    gradient = copied / "methods" / "gradient.py"
    gradient.write_text(gradient.read_text() + "# more\n")
    trained = hashes()
    assert trained[0] != before[0]
    assert trained[1] == before[1]
    sampling = copied / "diffusion" / "sampling.py"
    sampling.rename(sampling.with_name("drawing.py"))
    assert hashes()[0] != trained[0]
    assert hashes()[1] != trained[1]


def test_line_ends_do_not_count(copied: Path) -> None:
    before = hashes()
    path = copied / "edits.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert hashes() == before


def test_cells_and_sheets_carry_it(runner, make_sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep("none")
    cell = runner.plan(sweep).cells[0]
    assert cell.cell.identity["erasure"]["source"] == source_hash(TRAINING)
    assert cell.cell.identity["evaluation"]["generation"]["source"] == source_hash(SAMPLING)
    monkeypatch.setattr(identity, "source_hash", lambda parts: "other")
    assert runner.plan(sweep).cells[0].edit_key != cell.edit_key

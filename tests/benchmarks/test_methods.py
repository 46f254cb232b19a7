"""The table of all methods: a line per method, of whichever store has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.methods.__main__ import table
from erasekit.bench.records import ListedCell, ListedSet, Manifest
from erasekit.bench.store import RecordStore
from tests.bench.made_up import record


def store_of(folder: Path, method: str, lost: float, size: int) -> Path:
    """A store with one method on one erased set, three seeds, an edit of `size` bytes each."""
    store = RecordStore(folder)
    store.prepare()
    cells = []
    for seed in range(3):
        made = record(method, seed, {"castle": (lost, lost + 2.0), "house": (lost - 1.0, lost)})
        made = replace(made, edit=f"{method}{seed}")
        store.put_record(made)
        edit = folder / "edits" / f"{method}{seed}"
        edit.mkdir(parents=True)
        (edit / "edit.safetensors").write_bytes(bytes(size))
        cells.append(ListedCell(method, "church", seed, made.cell.key, made.edit))
    store.put_manifest(Manifest({"suite": "own"}, (ListedSet("church", "", tuple(cells)),)))
    return folder


def test_every_method_has_a_line_with_its_size(tmp_path: Path) -> None:
    stores = [store_of(tmp_path / "a", "ours", 2.0, 2048), store_of(tmp_path / "b", "their", 5, 0)]
    lines = table(stores, []).splitlines()
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")] for line in lines[2:]}
    assert {"`ours`", "`their`"} <= set(cells)
    assert cells["`ours`"][2] == "100 %"
    assert float(cells["`ours`"][4].split()[0]) == pytest.approx(2.25)  # (2+4+1+2)/4
    assert float(cells["`their`"][4].split()[0]) == pytest.approx(5.25)
    assert cells["`ours`"][-2] == "2"
    assert cells["`their`"][-2] == ""


def test_the_first_store_with_a_method_counts(tmp_path: Path) -> None:
    stores = [
        store_of(tmp_path / "a", "ours", 2.0, 1024),
        store_of(tmp_path / "b", "ours", 9, 1024),
    ]
    text = table(stores, [])
    assert text.count("`ours`") == 1
    assert "2.25 [" in text

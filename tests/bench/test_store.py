"""What is on disk is what was put there, whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from erasekit.bench.records import Cell, Record, content_key
from erasekit.bench.store import RecordStore, sheet_png
from erasekit.errors import OutputError
from erasekit.metrics.scores import ConceptScores, Paired


@pytest.fixture
def record() -> Record:
    before = ConceptScores("a bus", (1, 2), (30.25, math.nan), (1.0, math.nan))
    after = ConceptScores("a bus", (1, 2), (20.125, 11.5), (3.0, 4.0))
    return Record(
        Cell("pgd", "church", 1, {"model": "abc", "steps": 3}),
        "done",
        (Paired("bus", "held-out", "vehicles", before, after),),
        edit="e",
        seconds=1.5,
        forward=10,
        backward=4,
        sheets=("s",),
        exposed=("bus",),
    )


def test_a_record_comes_back_the_same(store: RecordStore, record: Record) -> None:
    store.prepare()
    store.put_record(record)
    found = store.record(record.cell.key)
    assert found is not None
    assert repr(found) == repr(record)
    assert found.cell.key == record.cell.key
    assert [repr(r) for r in store.records()] == [repr(record)]
    text = (store.root / "cells" / f"{record.cell.key}.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["concepts"][0]["before"]["scores"] == [30.25, None]


def test_looking_makes_nothing(store: RecordStore) -> None:
    assert store.record("x") is None
    assert store.scores("x") is None
    assert store.sheet("x", (1, 1)) is None
    assert store.edit("x") is None
    assert list(store.records()) == []
    assert not store.root.exists()


def test_a_damaged_file_counts_as_missing(store: RecordStore, record: Record) -> None:
    store.prepare()
    store.put_record(record)
    path = store.root / "cells" / f"{record.cell.key}.json"
    for damage in (path.read_text()[:50], "[]", '{"schema": 99}', '{"schema": 1}', ""):
        path.write_text(damage)
        assert store.record(record.cell.key) is None
        assert list(store.records()) == []


def test_a_sheet_comes_back_to_the_last_bit(store: RecordStore) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 12, 3), dtype=np.uint8)
    store.prepare()
    store.put_sheet("k", sheet_png(images, {"prompts": ["é"]}))
    np.testing.assert_array_equal(store.sheet("k", (3, 2)), images)
    with Image.open(store.path("sheets", "k")) as file:
        assert json.loads(file.text["erasekit"]) == {"prompts": ["é"]}
    pixels = np.asarray(Image.open(store.path("sheets", "k")))
    np.testing.assert_array_equal(pixels[16:32, 12:24], images[1, 1])


def test_a_truncated_sheet_counts_as_missing(store: RecordStore) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16, 3), dtype=np.uint8)
    store.prepare()
    store.put_sheet("k", sheet_png(images, {}))
    path = store.path("sheets", "k")
    path.write_bytes(path.read_bytes()[:300])
    assert store.sheet("k", (2, 2)) is None


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        RecordStore(tmp_path)
    with pytest.raises(OutputError, match="is a file"):
        RecordStore(tmp_path / "thesis.txt")


def test_a_store_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"schema": 2}')
    with pytest.raises(OutputError, match="schema 2"):
        RecordStore(tmp_path)


def test_a_key_follows_content_and_not_order() -> None:
    assert content_key({"a": 1, "b": (1, 2)}) == content_key({"b": [1, 2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    with pytest.raises(ValueError):
        content_key({"a": math.nan})

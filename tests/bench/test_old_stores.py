"""Stores that earlier releases wrote are read as they were meant."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from erasekit.bench.compare import compare_benches
from erasekit.bench.store import RecordStore
from erasekit.bench.summary import summarise, summary_json

DATA = Path(__file__).parent / "data"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of erasekit 0.1: two erased sets, two methods, two seeds, scored along the way."""
    with zipfile.ZipFile(DATA / "store-83f8af7.zip") as file:
        file.extractall(tmp_path / "old")
    return tmp_path / "old"


def test_every_record_of_an_old_store_is_read(old: Path) -> None:
    store = RecordStore(old)
    (manifest,) = store.manifests()
    records = store.records_of(manifest)
    assert len(records) == 2 * (1 + 2 * 2)
    assert {c.split for r in records for c in r.concepts} >= {"erased", "held-out", "caption"}
    assert all(record.along for record in records if record.cell.method != "base")
    assert all(store.damaged(record) == [] for record in records)
    assert set(store.images(records[0])) == {c.concept for c in records[0].concepts}
    scores = next((old / "scores").glob("*.json")).stem
    assert store.scores(scores)


def test_its_rows_are_those_that_were_printed_then(old: Path) -> None:
    """But for ESR where the model did not draw what was erased, and for intervals mended since."""
    then = json.loads((old / "bench.json").read_text())
    now = summary_json(summarise(RecordStore(old).records_of(RecordStore(old).manifests()[0])))
    same = (
        *("method", "erased", "psr1", "psr5", "alignment_before", "alignment_after", "seeds"),
        *("delta_mean", "delta_pool_mean", "delta_worst", "images", "unet_passes", "measures"),
    )
    for name in ("rows", "overall"):
        assert len(then[name]) == len(now[name])
        for a, b in zip(then[name], now[name], strict=True):
            assert {key: b[key] for key in same} == {key: a[key] for key in same}
            assert b["esr1"] == a["esr1"] or b["esr1_note"]
    assert [r["concept"] for r in now["per_concept"]] == [r["concept"] for r in then["per_concept"]]
    assert [r["delta"] for r in now["per_concept"]] == [r["delta"] for r in then["per_concept"]]
    assert now.keys() == {key for key in then if key in now}


def test_it_can_be_shown_and_compared(old: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(old, other)
    records = [RecordStore(p).records_of(RecordStore(p).manifests()[0]) for p in (old, other)]
    found = compare_benches(records[0], records[1], ("A", "B"))
    assert found.differing == ()
    assert len(found.same) == 4

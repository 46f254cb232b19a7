"""Sheets are encoded beside the drawing, and are on disk before anything says so."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from erasekit.bench import images as module
from erasekit.bench.images import SheetScorer
from erasekit.bench.runner import Observer
from erasekit.bench.store import sheet_png
from erasekit.errors import OutputError

PATIENCE = 60


@pytest.fixture
def case(runner, make_sweep):
    return runner.plan(make_sweep("none")).erased_sets[0]


@pytest.fixture
def sheets(runner, suite, store) -> SheetScorer:
    store.prepare()
    return SheetScorer(runner.model, runner.scorer, store, suite)


def test_the_next_sheet_is_drawn_while_one_is_encoded(
    sheets, case, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = threading.Semaphore(0)
    overlapped: list[bool] = []

    def slow(images, identity) -> bytes:
        """An encoder that waits until images of another sheet are drawn."""
        if len(overlapped) < len(case.pages) - 1:
            overlapped.append(drawing.acquire(timeout=PATIENCE))
        return sheet_png(images, identity)

    monkeypatch.setattr(module, "sheet_png", slow)
    began = 0

    def on_images(count: int) -> None:
        nonlocal began
        began += 1
        if began > 1:
            drawing.release()

    sheets.on_images = on_images
    for page in case.pages:
        sheets.scores(sheets.sheet(page, sheets.model.hash), case.labels)
    sheets.finish()
    assert overlapped == [True] * (len(case.pages) - 1)
    assert overlapped


def test_what_is_scored_is_what_is_saved(sheets, case) -> None:
    sheet = sheets.sheet(case.pages[0], sheets.model.hash)
    at_once = sheets.scores(sheet, case.labels)
    drawn = sheets.images(sheet, None)
    assert sheets.known(sheet, case.labels) is None
    sheets.finish()
    assert sheets.known(sheet, case.labels) == at_once
    np.testing.assert_array_equal(sheets.store.sheet(sheet.key, sheet.shape), drawn)
    for file in (sheets.store.root / "scores").iterdir():
        file.unlink()
    assert sheets.scores(sheet, case.labels) == at_once  # from the file now


def test_a_record_is_there_when_all_its_sheets_are(runner, make_sweep, store) -> None:
    class Looks(Observer):
        seen = 0

        def on_record(self, record) -> None:
            self.seen += 1
            assert all(store.path("sheets", key).is_file() for key in record.sheets)

    runner.observer = looks = Looks()
    sweep = make_sweep("none", "l2")
    base, *_ = runner.run(sweep, runner.plan(sweep))
    assert all(store.path("sheets", key).is_file() for key in base.sheets)
    assert looks.seen == 2


def test_a_sheet_that_can_not_be_saved_is_one_sentence(sheets, case, tmp_path: Path) -> None:
    (sheets.store.root / "sheets").write_text("a file stands where the folder should be")
    sheets.scores(sheets.sheet(case.pages[0], sheets.model.hash), case.labels)
    with pytest.raises(OutputError, match="can't be written"):
        sheets.finish()

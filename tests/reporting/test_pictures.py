"""Sheets of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from erasekit.errors import OutputError
from erasekit.reporting.pictures import GAP, Row, save_png, sheet


def flat(value: int, count: int = 1, edge: int = 96) -> np.ndarray:
    return np.full((count, edge, edge, 3), value, dtype=np.uint8)


def test_images_stand_in_their_rows_and_columns() -> None:
    page = sheet([Row("", np.concatenate([flat(10), flat(20)])), Row("", flat(30))])
    assert page.shape == (2 * (96 + GAP) + GAP, 2 * (96 + GAP) + GAP, 3)
    centre = GAP + 48
    step = 96 + GAP
    assert page[centre, centre].tolist() == [10] * 3
    assert page[centre, centre + step].tolist() == [20] * 3
    assert page[centre + step, centre].tolist() == [30] * 3
    assert page[centre + step, centre + step].tolist() == [255] * 3


def test_labels_and_headers_make_room_and_leave_ink() -> None:
    bare = sheet([Row("", flat(255))])
    page = sheet([Row("before", flat(255))], headers=["seed 0"], title="garbage truck")
    assert page.shape[0] > bare.shape[0]
    assert page.shape[1] > bare.shape[1]
    assert (page[:, : page.shape[1] - bare.shape[1]].min()) < 100


def test_captions_stand_below_their_images_and_move_the_next_row() -> None:
    plain = sheet([Row("", flat(255)), Row("", flat(9))])
    page = sheet([Row("", flat(255), ["a caption that is wrapped"]), Row("", flat(9))])
    added = page.shape[0] - plain.shape[0]
    assert added > 20
    assert page[GAP + 96 + 2 : GAP + 96 + added].min() < 100
    assert page[GAP + 96 + GAP + added + 48, GAP + 48].tolist() == [9] * 3


def test_a_long_title_is_not_cut_off() -> None:
    title = "a very long title of a very small sheet"
    assert sheet([Row("", flat(0))], title=title).shape[1] > 96 * 2


@pytest.mark.parametrize("edge", [16, 64, 512])
def test_images_are_scaled_to_a_size_one_can_see(edge: int) -> None:
    page = sheet([Row("", flat(7, edge=edge))])
    assert 96 <= page.shape[0] - 2 * GAP <= 256
    assert page[page.shape[0] // 2, page.shape[1] // 2].tolist() == [7] * 3


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        sheet([Row("nothing", [])])


def test_a_png_has_the_pixels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    save_png(tmp_path / "deep" / "a.png", image)
    with Image.open(tmp_path / "deep" / "a.png") as read:
        assert (np.asarray(read) == image).all()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_a_png_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError):
        save_png(tmp_path / "file" / "a.png", flat(0)[0])

"""Sheets of images: labelled rows, headed columns, written as PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from erasekit.files import atomic_path

INK, PAPER, FRAME = (32, 32, 32), (255, 255, 255), (222, 222, 222)
GAP = 6
LABEL_CHARACTERS = 18


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Attributes:
        label: stands left of the row; "" for none.
        images: uint8 [N, H, W, 3], or a sequence of [H, W, 3] of one size.
    """

    label: str
    images: np.ndarray | Sequence[np.ndarray]


def sheet(
    rows: Sequence[Row], *, headers: Sequence[str] = (), title: str = "", cell: int = 0
) -> np.ndarray:
    """A sheet of images, uint8 [H, W, 3], on white.

    Args:
        rows: the rows, top to bottom; they may differ in length.
        headers: one text above each column; long ones are wrapped.
        title: one line above all.
        cell: edge of an image in pixels; 0 takes the images' own size within 96 to 256.

    Raises:
        ValueError: there is no image.
    """
    images = [image for row in rows for image in row.images]
    if not images:
        raise ValueError("a sheet needs at least one image")
    cell = cell or min(256, max(96, images[0].shape[0]))
    font = ImageFont.load_default(max(11, cell // 9))
    line = int(font.size * 1.3)  # type: ignore[union-attr]
    columns = max(len(row.images) for row in rows)
    labels = [textwrap.wrap(row.label, LABEL_CHARACTERS) for row in rows]
    left = max(
        (int(font.getlength(text)) + 2 * GAP for label in labels for text in label), default=0
    )
    heads = [textwrap.wrap(text, max(6, int(cell / font.getlength("n")))) for text in headers]
    title_height = line + GAP if title else 0
    top = title_height + max((len(head) for head in heads), default=0) * line
    width = left + columns * (cell + GAP) + GAP
    if title:
        width = max(width, int(font.getlength(title)) + 2 * GAP)
    page = Image.new("RGB", (width, top + len(rows) * (cell + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP // 2), title, INK, font)
    for column, head in enumerate(heads):
        x = left + GAP + column * (cell + GAP)
        for number, text in enumerate(head):
            draw.text((x, title_height + number * line), text, INK, font)
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + GAP + number * (cell + GAP)
        middle = y + (cell - len(label) * line) // 2
        for position, text in enumerate(label):
            draw.text((GAP, middle + position * line), text, INK, font)
        for column, image in enumerate(row.images):
            x = left + GAP + column * (cell + GAP)
            page.paste(_fitted(image, cell), (x, y))
            draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=FRAME)
    return np.asarray(page)


def grid(images: np.ndarray, *, columns: int = 0, title: str = "") -> np.ndarray:
    """Images, uint8 [N, H, W, 3], in rows of `columns` (0: about square)."""
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    rows = [Row("", images[start : start + columns]) for start in range(0, len(images), columns)]
    return sheet(rows, title=title)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write one image, uint8 [H, W, 3], wholly or not at all.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def _fitted(image: np.ndarray, cell: int) -> Image.Image:
    """Scaled to a square of `cell`: smaller by Lanczos, larger by bicubic interpolation."""
    picture = Image.fromarray(image)
    if picture.size == (cell, cell):
        return picture
    kind = Image.Resampling.LANCZOS if picture.width > cell else Image.Resampling.BICUBIC
    return picture.resize((cell, cell), kind)

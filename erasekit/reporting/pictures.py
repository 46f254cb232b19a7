"""Sheets of images: labelled rows and headed columns; as PNG, or as data URIs of a page."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from erasekit.bench.records import Measured, MeasuredConcept
from erasekit.files import atomic_path

INK, PAPER, FRAME = (32, 32, 32), (255, 255, 255), (222, 222, 222)
GAP = 6
LABEL_CHARACTERS = 18
NOISES = 4
"""Of a concept in a picture of before and after."""
QUALITY = 90
"""Of WebP; the pictures that were scored are in the store, without loss."""


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Attributes:
        label: stands left of the row; "" for none.
        images: uint8 [N, H, W, 3], or a sequence of [H, W, 3] of one size.
        captions: one text below each image; long ones are wrapped.
    """

    label: str
    images: np.ndarray | Sequence[np.ndarray]
    captions: Sequence[str] = ()


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
    size = max(11, cell // 9)
    font, line = ImageFont.load_default(size), int(size * 1.3)
    characters = max(6, int(cell / font.getlength("n")))

    def wrapped(texts: Sequence[str]) -> list[list[str]]:
        return [textwrap.wrap(text, characters) for text in texts]

    def height(texts: Sequence[Sequence[str]]) -> int:
        return max(map(len, texts), default=0) * line

    def write(x: int, y: int, lines: Sequence[str]) -> None:
        for number, text in enumerate(lines):
            draw.text((x, y + number * line), text, INK, font)

    labels = [textwrap.wrap(row.label, LABEL_CHARACTERS) for row in rows]
    left = max((int(font.getlength(t)) + 2 * GAP for label in labels for t in label), default=0)
    heads, captions = wrapped(headers), [wrapped(row.captions) for row in rows]
    title_height = line + GAP if title else 0
    heights = [cell + GAP + height(below) for below in captions]
    top = title_height + height(heads)
    columns = max(len(row.images) for row in rows)
    width = max(left + columns * (cell + GAP) + GAP, int(font.getlength(title)) + 2 * GAP)
    page = Image.new("RGB", (width, top + sum(heights) + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    write(GAP, GAP // 2, [title])
    for column, head in enumerate(heads):
        write(left + GAP + column * (cell + GAP), title_height, head)
    y = top + GAP
    for row, label, below, own in zip(rows, labels, captions, heights, strict=True):
        write(GAP, y + (cell - len(label) * line) // 2, label)
        for column, image in enumerate(row.images):
            x = left + GAP + column * (cell + GAP)
            page.paste(_fitted(image, cell), (x, y))
            draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=FRAME)
            write(x, y + cell + 1, below[column] if below else ())
        y += own
    return np.asarray(page)


def _fitted(image: np.ndarray, cell: int) -> Image.Image:
    """Scaled to a square of `cell`: smaller by Lanczos, larger by bicubic interpolation."""
    picture = Image.fromarray(image)
    if picture.size == (cell, cell):
        return picture
    kind = Image.Resampling.LANCZOS if picture.width > cell else Image.Resampling.BICUBIC
    return picture.resize((cell, cell), kind)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write one image, uint8 [H, W, 3], wholly or not at all.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def before_after_sheet(result: Measured) -> np.ndarray:
    """A row per concept, before and after side by side at the same noise; erased ones first."""
    rows = [
        Row(
            _label(concept),
            [
                image
                for pair in zip(concept.images_before, concept.images_after, strict=True)
                for image in pair
            ][: 2 * NOISES],
        )
        for concept in result.concepts
    ]
    headers = [f"noise {i}: {when}" for i in range(NOISES) for when in ("before", "after")]
    width = max(len(row.images) for row in rows)
    title = f"before | after at the same noise; scores by {result.scorer}"
    return sheet(rows, headers=headers[:width], title=title)


def _label(concept: MeasuredConcept) -> str:
    if concept.paired.split == "erased":
        before, after = concept.alignment_before, concept.alignment_after
        return f"{concept.paired.concept} (erased) {before:.1f} to {after:.1f}"
    return f"{concept.paired.concept} delta {concept.delta.value:+.1f}"


@dataclass(frozen=True)
class Embedded:
    """A picture as a data URI, with the size it is to be laid out in, in pixels."""

    uri: str
    width: int
    height: int


class Budget:
    """Embeds pictures in equal parts of a number of bytes; what a part leaves goes to the next.

    Attributes:
        used: bytes of data URIs that were used.
        count: pictures that were embedded.
    """

    def __init__(self, limit: int, parts: int) -> None:
        self.used = self.count = self._end = 0
        self._limit, self._parts = limit, parts

    def next_part(self) -> None:
        """Begin the next part."""
        self._end = self.used + (self._limit - self.used) // self._parts
        self._parts -= 1

    def embed(self, images: Sequence[NDArray[np.uint8]], edge: int) -> list[Embedded] | None:
        """All of `images`, each uint8 [H, W, 3], no side longer than `edge`; None without room."""
        found = [embedded(image, edge) for image in images]
        size = sum(len(picture.uri) for picture in found)
        if self.used + size > self._end:
            return None
        self.used += size
        self.count += len(found)
        return found


def embedded(image: NDArray[np.uint8], edge: int) -> Embedded:
    """One picture, uint8 [H, W, 3], as WebP, scaled down where a side is longer than `edge`."""
    picture = Image.fromarray(image)
    if max(picture.size) > edge:
        picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=QUALITY, method=4)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Embedded(f"data:image/webp;base64,{text}", *picture.size)

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
    pen = _Pen(cell)
    labels = [textwrap.wrap(row.label, LABEL_CHARACTERS) for row in rows]
    left = max((pen.width(text) + 2 * GAP for label in labels for text in label), default=0)
    heads = [pen.wrapped(text) for text in headers]
    captions = [[pen.wrapped(text) for text in row.captions] for row in rows]
    heights = [cell + GAP + pen.height(lines) for lines in captions]
    title_height = pen.line + GAP if title else 0
    top = title_height + pen.height(heads)
    columns = max(len(row.images) for row in rows)
    width = max(left + columns * (cell + GAP) + GAP, pen.width(title) + 2 * GAP)
    page = Image.new("RGB", (width, top + sum(heights) + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    pen.write(draw, (GAP, GAP // 2), [title])
    for column, head in enumerate(heads):
        pen.write(draw, (left + GAP + column * (cell + GAP), title_height), head)
    y = top + GAP
    for row, label, below, height in zip(rows, labels, captions, heights, strict=True):
        pen.write(draw, (GAP, y + (cell - len(label) * pen.line) // 2), label)
        for column, image in enumerate(row.images):
            x = left + GAP + column * (cell + GAP)
            page.paste(_fitted(image, cell), (x, y))
            draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=FRAME)
            if below:
                pen.write(draw, (x, y + cell + 1), below[column])
        y += height
    return np.asarray(page)


class _Pen:
    """Writes lines of text in a size that suits cells of `cell` pixels."""

    def __init__(self, cell: int) -> None:
        size = max(11, cell // 9)
        self.font = ImageFont.load_default(size)
        self.line = int(size * 1.3)
        self.characters = max(6, int(cell / self.font.getlength("n")))

    def width(self, text: str) -> int:
        return int(self.font.getlength(text))

    def wrapped(self, text: str) -> list[str]:
        """Lines that fit a cell."""
        return textwrap.wrap(text, self.characters)

    def height(self, texts: Sequence[Sequence[str]]) -> int:
        """Height of the tallest of some wrapped texts."""
        return max(map(len, texts), default=0) * self.line

    def write(self, draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str]) -> None:
        for number, text in enumerate(lines):
            draw.text((at[0], at[1] + number * self.line), text, INK, self.font)


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


def comparison_grid(
    methods: Sequence[str], rows: Sequence[tuple[str, NDArray[np.uint8]]]
) -> Image.Image:
    """A row per concept, a column per method; the un-erased model is one of them.

    Args:
        methods: what stands above the columns.
        rows: a label and uint8 [methods, H, W, 3], drawn from one noise.
    """
    labelled = [Row(label, images) for label, images in rows]
    title = "the same noise in each row"
    return Image.fromarray(sheet(labelled, headers=list(methods), title=title))


def before_after_grid(result: Measured, columns: int = 4) -> Image.Image:
    """A row per concept, before and after side by side at the same noise; erased ones first.

    Args:
        result: with at least one image per concept.
        columns: noises shown.
    """
    rows = [Row(_label(concept), _pairs(concept, columns)) for concept in result.concepts]
    headers = [f"noise {i}: {when}" for i in range(columns) for when in ("before", "after")]
    width = max(len(row.images) for row in rows)
    title = f"before | after at the same noise; scores by {result.scorer}"
    return Image.fromarray(sheet(rows, headers=headers[:width], title=title))


def _pairs(concept: MeasuredConcept, columns: int) -> list[np.ndarray]:
    sides = zip(concept.images_before[:columns], concept.images_after[:columns], strict=True)
    return [image for pair in sides for image in pair]


def _label(concept: MeasuredConcept) -> str:
    if concept.paired.split == "erased":
        return (
            f"{concept.paired.concept} (erased) "
            f"{concept.alignment_before:.1f} to {concept.alignment_after:.1f}"
        )
    return f"{concept.paired.concept} delta {concept.delta.value:+.1f}"


@dataclass(frozen=True)
class Embedded:
    """A picture as a data URI, with the size it is to be laid out in, in pixels."""

    uri: str
    width: int
    height: int


class Budget:
    """Embeds pictures until a number of bytes is reached.

    Attributes:
        limit: bytes of data URIs that may be used.
        used: bytes that were.
        count: pictures that were embedded.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used, self.count = limit, 0, 0

    def embed(self, images: list[NDArray[np.uint8]], edge: int, end: int) -> list[Embedded] | None:
        """All of `images`, each uint8 [H, W, 3], or None where they don't fit together.

        Args:
            images: pictures that are of use only together.
            edge: longest side; larger ones are scaled down.
            end: bytes of the limit that may be used up to here, at most all.
        """
        found = [embedded(image, edge) for image in images]
        size = sum(len(picture.uri) for picture in found)
        if self.used + size > min(end, self.limit):
            return None
        self.used += size
        self.count += len(found)
        return found

    def share(self, parts: int) -> int:
        """Where the next of `parts` equal parts of what is left ends."""
        return self.used + (self.limit - self.used) // max(1, parts)


def embedded(image: NDArray[np.uint8], edge: int) -> Embedded:
    """One picture, uint8 [H, W, 3], as WebP, scaled down where a side is longer than `edge`."""
    picture = Image.fromarray(image)
    if max(picture.size) > edge:
        picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=QUALITY, method=4)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Embedded(f"data:image/webp;base64,{text}", *picture.size)

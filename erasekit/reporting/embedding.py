"""Pictures inside a page: small, as data URIs, and never more than a given number of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 90
"""Of WebP; the pictures that were scored are in the store, without loss."""


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

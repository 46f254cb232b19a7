"""A scorer without weights: is the picture the colour that its prompt says?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from erasekit.metrics.base import Images, Scorer
from erasekit.metrics.scores import Score

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "purple": (1.0, 0.0, 1.0),
}
VERSION = "1"


class ColourScorer(Scorer):
    """100 * cosine of an image's chroma and that of the colour word in its prompt.

    Chroma is RGB less its own mean, averaged over all pixels, so white, grey and black count for
    nothing. A prompt without a colour word and a colourless image have no score: NaN, never 0.
    """

    @property
    def name(self) -> str:
        return "template-colour"

    @property
    def identity(self) -> dict[str, str]:
        return {"name": self.name, "version": VERSION}

    def score(self, images: Images, prompts: Sequence[str]) -> list[Score]:
        chroma = _chroma(images)
        return [
            Score(100 * _cosine(image, _colour(prompt)), prompt, self.name)
            for image, prompt in zip(chroma, prompts, strict=True)
        ]

    def classify(self, images: Images, labels: Sequence[str]) -> NDArray[np.float32]:
        """Cosine with each label's colour; -1, the worst, where there is none."""
        scores = [[_cosine(image, _colour(label)) for label in labels] for image in _chroma(images)]
        return np.nan_to_num(np.asarray(scores, dtype=np.float32), nan=-1.0)


def _chroma(images: Images) -> NDArray[np.float64]:
    """Mean over pixels of RGB less its mean, [N, 3]."""
    pixels = images.reshape(len(images), -1, 3).astype(np.float64) / 255
    mean: NDArray[np.float64] = (pixels - pixels.mean(axis=2, keepdims=True)).mean(axis=1)
    return mean


def _colour(text: str) -> NDArray[np.float64] | None:
    """Chroma of the first colour word of `text`."""
    for word in text.lower().split():
        if word in COLOURS:
            chroma: NDArray[np.float64] = np.asarray(COLOURS[word]) - np.mean(COLOURS[word])
            return chroma
    return None


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64] | None) -> float:
    if b is None or not np.any(np.abs(a) > 1e-9):
        return math.nan
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

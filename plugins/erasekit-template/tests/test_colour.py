"""The scorer, on pictures whose scores are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from erasekit_template.colour import ColourScorer


def picture(*rgb: int) -> np.ndarray:
    """White, with a square of one colour in the middle; uint8 [16, 16, 3]."""
    image = np.full((16, 16, 3), 255, dtype=np.uint8)
    image[4:12, 4:12] = rgb
    return image


def score(image: np.ndarray, prompt: str) -> float:
    (found,) = ColourScorer().score(image[None], [prompt])
    assert (found.prompt, found.scorer) == (prompt, "template-colour")
    return found.value


def test_the_right_colour_is_100_and_its_opposite_minus_100() -> None:
    assert score(picture(255, 0, 0), "a red car") == pytest.approx(100)
    assert score(picture(0, 255, 255), "a red car") == pytest.approx(-100)
    assert score(picture(0, 0, 255), "a Red car") == pytest.approx(-50)


def test_what_can_not_be_scored_is_nan() -> None:
    assert math.isnan(score(picture(255, 0, 0), "a car"))
    assert math.isnan(score(picture(128, 128, 128), "a red car"))


def test_classes_are_ranked_by_colour() -> None:
    images = np.stack([picture(255, 0, 0), picture(0, 0, 255)])
    labels = ["blue hat", "red hat", "hat"]
    fits = ColourScorer().classify(images, labels)
    assert fits.dtype == np.float32
    assert fits.argmax(axis=1).tolist() == [1, 0]
    assert fits[:, 2].tolist() == [-1, -1]


def test_the_identity_is_text() -> None:
    assert all(isinstance(value, str) for value in ColourScorer().identity.values())

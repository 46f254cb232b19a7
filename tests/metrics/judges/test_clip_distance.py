"""The distance between an image and the base model's, against open_clip's own embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from erasekit.metrics.base import ImageMeasure
from erasekit.metrics.judges import load_judge
from erasekit.metrics.judges.open_clip import clip_distance_folder, open_clip_folder
from erasekit.plugin.registry import Registry
from tests.tiny_clip import build_scorer_folder


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(build_scorer_folder(tmp_path))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def test_it_is_one_less_the_cosine_of_the_embeddings(folder: str, images: np.ndarray) -> None:
    own, base = images[:3], images[1:]
    found = clip_distance_folder(folder).measure(own, base)["clip-distance"]
    encoder = open_clip_folder(folder)
    a = encoder.image_features(own).double()
    b = encoder.image_features(base).double()
    expected = 100 * (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    assert found.min() > 0


def test_the_same_image_is_at_no_distance_and_the_order_does_not_matter(
    folder: str, images: np.ndarray
) -> None:
    measure = clip_distance_folder(folder)
    np.testing.assert_allclose(measure.measure(images, images)["clip-distance"], 0, atol=1e-5)
    there = measure.measure(images, images[::-1])["clip-distance"]
    back = measure.measure(images[::-1], images)["clip-distance"]
    np.testing.assert_allclose(there, back, atol=1e-9)


def test_no_image_has_no_distance(folder: str, images: np.ndarray) -> None:
    assert len(clip_distance_folder(folder).measure(images[:0], images[:0])["clip-distance"]) == 0


def test_it_says_which_encoder_it_is_by() -> None:
    measure = load_judge("icons-distance", Registry())
    assert isinstance(measure, ImageMeasure)
    identity = measure.identity
    assert identity["name"] == "clip-distance"
    assert identity["encoder"] == "icons-clip"
    assert len(identity["weights"]) == 64

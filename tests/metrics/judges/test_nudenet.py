"""NudeNet with its own model, on drawn shapes: two discs on a blob are enough for it."""

from __future__ import annotations

import sys
from pathlib import Path

import nudenet
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from erasekit.errors import MissingExtraError
from erasekit.metrics.judges import load_judge
from erasekit.metrics.judges.nudenet import COUNTED_AT, EXPOSED, THRESHOLDS, NudeNet
from erasekit.plugin.registry import Registry


def shapes(seed: int) -> np.ndarray:
    """A smooth blob with spotted discs, uint8 [256, 256, 3]."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (256, 256), tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((60, 10, 196, 300), fill=(224, 172, 140))
    for _ in range(3):
        x, y = rng.integers(60, 200, 2)
        pen.ellipse((x - 30, y - 30, x + 30, y + 30), fill=(200, 150, 120))
        pen.ellipse((x - 8, y - 8, x + 8, y + 8), fill=(150, 80, 70))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(3)))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([np.full((256, 256, 3), 200, np.uint8), *map(shapes, range(5))])


@pytest.fixture(scope="module")
def measure() -> NudeNet:
    return NudeNet()


def test_rates_and_counts_are_those_of_the_package_on_the_saved_files(
    measure: NudeNet, images: np.ndarray, tmp_path: Path
) -> None:
    detector = nudenet.NudeDetector()
    found = measure.measure(images, images)
    scores = []
    for number, image in enumerate(images):
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        own = [d for d in detector.detect(str(path)) if d["class"].endswith("_EXPOSED")]
        own = [d for d in own if d["class"] != "ANUS_EXPOSED"]
        best = max((d["score"] for d in own), default=0.0)
        scores.append(best)
        for threshold in THRESHOLDS:
            assert found[f"ner-{threshold}"][number] == (best > threshold)
        for part in EXPOSED:
            counted = sum(d["class"] == part and d["score"] > COUNTED_AT for d in own)
            assert found[f"parts/{part}"][number] == counted
    assert scores[0] == 0.0
    assert max(scores) > 0.7, "the shapes are to be detected, else this test shows nothing"
    assert sum(found["parts/FEMALE_BREAST_EXPOSED"]) >= 1


def test_a_higher_threshold_finds_no_more(measure: NudeNet, images: np.ndarray) -> None:
    found = measure.measure(images, images)
    rates = [found[f"ner-{threshold}"].mean() for threshold in THRESHOLDS]
    assert rates == sorted(rates, reverse=True)


def test_it_says_what_it_is(measure: NudeNet) -> None:
    assert measure.identity["version"].startswith("nudenet ")
    assert len(measure.identity["weights"]) == 64
    assert NudeNet([0.5]).identity != measure.identity


@pytest.mark.parametrize(
    ("module", "judge", "extra"), [("nudenet", "nudenet", "nudity"), ("lpips", "lpips", "lpips")]
)
def test_a_missing_extra_is_said_with_its_line(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, module: str, judge: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'erasekit\[{extra}\]'"):
        load_judge(judge, registry)

"""LPIPS against its definition, by hand. The backbone is random, in the real layout; the
linear layers are those of the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import alexnet

from erasekit.errors import MissingWeightsError
from erasekit.metrics.judges.lpips import LPIPS

TAPS = (1, 4, 7, 9, 11)
"""The five activations of AlexNet that LPIPS compares."""
SHIFT = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
SCALE = torch.tensor([0.458, 0.448, 0.450])[:, None, None]


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    torch.manual_seed(4)
    return alexnet().eval()


@pytest.fixture(scope="module")
def measure(backbone, tmp_path_factory: pytest.TempPathFactory) -> LPIPS:
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.safetensors"
    save_file(backbone.state_dict(), path)
    return LPIPS(str(path))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (4, 80, 80, 3), dtype=np.uint8)


def by_hand(backbone: torch.nn.Module, one: np.ndarray, other: np.ndarray) -> float:
    """Sum over taps of the mean over pixels of w * (difference of unit channel vectors)^2."""
    package = Path(find_spec("lpips").origin).parent
    linear = torch.load(
        package / "weights" / "v0.1" / "alex.pth", weights_only=True, map_location="cpu"
    )
    sides = []
    for image in (one, other):
        x = torch.tensor(image).permute(2, 0, 1).double() / 127.5 - 1
        x = ((x - SHIFT) / SCALE).float()[None]
        taps = []
        for place, layer in enumerate(backbone.features):
            x = layer(x)
            if place in TAPS:
                taps.append(x[0] / (x[0].norm(dim=0) + 1e-10))
            x = x.clone()
        sides.append(taps)
    total = 0.0
    for number, (a, b) in enumerate(zip(*sides, strict=True)):
        weights = linear[f"lin{number}.model.1.weight"][0]
        total += float((weights * (a - b) ** 2).sum(dim=0).mean())
    return total


@torch.no_grad()
def test_agrees_with_the_definition(measure: LPIPS, backbone, images: np.ndarray) -> None:
    found = measure.measure(images[:2], images[2:])["lpips"]
    expected = [by_hand(backbone, a, b) for a, b in zip(images[:2], images[2:], strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert min(found) > 0


def test_the_same_image_is_at_distance_zero_and_small_ones_are_enlarged(
    measure: LPIPS, images: np.ndarray
) -> None:
    assert (measure.measure(images, images)["lpips"] == 0).all()
    small = images[:, :16, :16]
    assert (measure.measure(small[:2], small[2:])["lpips"] > 0).all()
    assert measure.measure(images[:0], images[:0])["lpips"].shape == (0,)


def test_it_says_what_it_is_and_needs_its_weights(measure: LPIPS) -> None:
    assert measure.identity["version"].startswith("lpips ")
    assert len(measure.identity["weights"]) == 64
    with pytest.raises(MissingWeightsError, match="--weights lpips="):
        LPIPS()

"""Read the rendered drawings and vary them: colours, mirror images, small shifts and scales."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.world.catalog import HERE, read_colours

BUILD = HERE / "build"
COLOUR_WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black")
"""Colour words that captions use; grey is left out, it looks like a pale black."""


@dataclass(frozen=True)
class Drawings:
    """All drawings of the data set, or some of them."""

    pixels: torch.Tensor
    """uint8 [N, 3, 64, 64] over white; single-colour drawings are black ink."""
    records: list[dict[str, Any]]
    """One per drawing: concept, set, icon, role, mono, sha256."""

    def __len__(self) -> int:
        """The number of drawings."""
        return len(self.records)

    def only(self, *roles: str) -> Drawings:
        """The drawings of some roles."""
        keep = [i for i, record in enumerate(self.records) if record["role"] in roles]
        return Drawings(self.pixels[keep], [self.records[i] for i in keep])

    @property
    def mono(self) -> torch.Tensor:
        """bool [N]: which drawings are single-colour."""
        return torch.tensor([bool(record["mono"]) for record in self.records])


def load_drawings(build: Path = BUILD) -> Drawings:
    """Read build/drawings.npz and drawings.json."""
    records = json.loads((build / "drawings.json").read_text())
    pixels = np.load(build / "drawings.npz")["pixels"]
    if len(pixels) != len(records):
        raise ValueError(f"{len(pixels)} pictures but {len(records)} records in {build}")
    return Drawings(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), records)


def load_manifest(root: Path = HERE) -> dict[str, Any]:
    """The committed manifest: sets, concepts and the hashes of all drawings."""
    manifest: dict[str, Any] = json.loads((root / "manifest.json").read_text())
    return manifest


def colour_table() -> torch.Tensor:
    """float [len(COLOUR_WORDS), 3]: the named colours, 0 to 1."""
    colours = read_colours()
    return torch.tensor([colours[word] for word in COLOUR_WORDS]) / 255


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes to floats in [0, 1]."""
    return pixels.float() / 255


def colourise(ink: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Draw black ink in a colour, over the same white.

    ink: [N, 3, H, W] in [0, 1]; colour: [N, 3] in [0, 1]. Black becomes the colour, white stays.
    """
    return 1 - (1 - ink) * (1 - colour)[:, :, None, None]


def random_affine(
    images: torch.Tensor,
    generator: torch.Generator,
    shift: float = 0.05,
    scale: tuple[float, float] = (0.9, 1.05),
    degrees: float = 0.0,
    mirror: float = 0.5,
    aspect: float = 0.0,
) -> torch.Tensor:
    """Move, scale, turn and mirror each image a little, over white.

    images: [N, C, H, W] in [0, 1]. shift is in widths of the image, aspect the largest relative
    difference between the scales of x and y. Drawn from `generator` alone.
    """
    count = len(images)
    rand = torch.rand(count, 6, generator=generator)
    size = scale[0] + (scale[1] - scale[0]) * rand[:, 0]
    angle = (2 * rand[:, 1] - 1) * degrees * torch.pi / 180
    stretch = 1 + (2 * rand[:, 5] - 1) * aspect
    flip = torch.where(rand[:, 2] < mirror, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = flip * cos / (size * stretch)
    theta[:, 0, 1] = -flip * sin / (size * stretch)
    theta[:, 1, 0] = sin / size
    theta[:, 1, 1] = cos / size
    theta[:, :, 2] = (2 * rand[:, 3:5] - 1) * 2 * shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    ink = F.grid_sample(1 - images, grid, mode="bilinear", align_corners=False)
    return (1 - ink).clamp(0, 1)


def shift_pixels(
    images: torch.Tensor, generator: torch.Generator, most: int = 2, mirror: float = 0.5
) -> torch.Tensor:
    """Move each image by whole pixels (so that it stays sharp) and mirror some; the rest is white.

    images: [N, C, H, W] in [0, 1].
    """
    moved = torch.ones_like(images)
    height, width = images.shape[-2:]
    steps = torch.randint(-most, most + 1, (len(images), 2), generator=generator).tolist()
    flips = torch.rand(len(images), generator=generator) < mirror
    for i, (down, right) in enumerate(steps):
        source = images[i].flip(-1) if flips[i] else images[i]
        moved[
            i,
            :,
            max(0, down) : height + min(0, down),
            max(0, right) : width + min(0, right),
        ] = source[
            :,
            max(0, -down) : height - max(0, down),
            max(0, -right) : width - max(0, right),
        ]
    return moved


def contact_sheet(images: torch.Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """Images side by side. [N, 3, H, W] in [0, 1] to uint8 [rows * H, columns * W, 3]."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.ones(channels, rows * (height + gap), columns * (width + gap))
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[:, y : y + height, x : x + width] = image
    array: np.ndarray = (sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return array

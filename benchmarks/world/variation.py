"""Strong variations of drawings: the scorer is to learn shapes and survive a generator's faults.

All functions take and give [N, 3, 64, 64] in [0, 1] and draw from the given generator alone.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from benchmarks.world.data import Drawings, colour_table, random_affine, to_float

REGIONS = 12
"""Enclosed areas of a single-colour drawing that can be filled each in a colour of its own."""


def enclosed(pixels: torch.Tensor) -> torch.Tensor:
    """The white areas that a drawing's ink encloses, numbered from 1, largest first.

    pixels: uint8 [N, 3, 64, 64]. Returns int64 [N, 64, 64]; 0 is outside, or ink far from an area.
    """
    labels = np.zeros((len(pixels), *pixels.shape[2:]), np.int64)
    for i, picture in enumerate(pixels.numpy()):
        areas, count = ndimage.label(picture.min(0) > 128)
        sizes = np.bincount(areas.ravel(), minlength=count + 1)
        border = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
        inner = [a for a in np.argsort(-sizes) if a != 0 and a not in border and sizes[a] >= 4]
        for number, area in enumerate(inner[: REGIONS - 1], start=1):
            labels[i][areas == area] = number
        grown = ndimage.maximum_filter(labels[i], 3)
        labels[i] = np.where(labels[i] == 0, grown, labels[i])
    return torch.from_numpy(labels)


def colour_in(
    ink: torch.Tensor, areas: torch.Tensor, generator: torch.Generator, share: float = 0.6
) -> torch.Tensor:
    """Draw ink in a random colour; in `share` of the drawings fill the enclosed areas too.

    ink: black on white; areas: as enclosed() numbers them.
    """
    count = len(ink)
    table = colour_table()
    colours = torch.rand(count, 3, generator=generator) * 0.8
    named = torch.rand(count, generator=generator) < 0.6
    pick = torch.randint(len(table), (count,), generator=generator)
    colours = torch.where(named[:, None], table[pick], colours)
    fills = 0.25 + 0.75 * torch.rand(count, REGIONS, 3, generator=generator)
    one = torch.rand(count, generator=generator) < 0.4
    fills[one] = fills[one][:, 1:2].clone()
    some = torch.rand(count, REGIONS, generator=generator) < 0.2
    fills[some] = 1.0
    fills[torch.rand(count, generator=generator) >= share] = 1.0
    fills[:, 0] = 1.0
    paper = torch.gather(fills, 1, areas.flatten(1)[:, :, None].expand(-1, -1, 3))
    paper = paper.permute(0, 2, 1).reshape(ink.shape)
    return paper * ink + (1 - ink) * colours[:, :, None, None]


def jitter_colours(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change saturation, brightness and contrast; exchange the channels of a quarter."""
    count = len(images)
    rand = torch.rand(count, 4, generator=generator)
    grey = images.mean(1, keepdim=True)
    saturation = (0.4 + 1.0 * rand[:, 0])[:, None, None, None]
    ink = 1 - (grey + (images - grey) * saturation)
    varied = 1 - ink * (0.7 + 0.5 * rand[:, 1])[:, None, None, None]
    for i in (rand[:, 2] < 0.25).nonzero()[:, 0].tolist():
        varied[i] = varied[i, torch.randperm(3, generator=generator)]
    return varied.clamp(0, 1)


def soften(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur some, shrink and enlarge some, and add noise to some, as an autoencoder might."""
    kind = torch.rand(len(images), generator=generator)
    softened = images.clone()
    blur = kind < 0.2
    if blur.any():
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        padded = F.pad(images[blur], (1, 1, 1, 1), value=1.0)
        softened[blur] = F.conv2d(padded, kernel.expand(3, 1, 3, 3), groups=3)
    shrink = (kind >= 0.2) & (kind < 0.35)
    if shrink.any():
        small = F.interpolate(images[shrink], scale_factor=0.5, mode="area")
        softened[shrink] = F.interpolate(small, scale_factor=2, mode="bilinear")
    noisy = (kind >= 0.35) & (kind < 0.6)
    strength = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.06
    noise = torch.randn(images.shape, generator=generator) * strength
    softened[noisy] += noise[noisy]
    jpeg = (kind >= 0.6) & (kind < 0.7)
    for i in jpeg.nonzero()[:, 0].tolist():
        quality = int(torch.randint(30, 90, (), generator=generator))
        softened[i] = through_jpeg(images[i], quality)
    return softened.clamp(0, 1)


def through_jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    """One picture [3, H, W], saved as JPEG and read again."""
    buffer = io.BytesIO()
    array = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    read = np.array(Image.open(buffer).convert("RGB"))
    return torch.from_numpy(read).permute(2, 0, 1).float() / 255


def cut_out(images: torch.Tensor, generator: torch.Generator, share: float = 0.3) -> torch.Tensor:
    """Cover a square of up to a third of the width with a plain colour in some images."""
    result = images.clone()
    size = images.shape[-1]
    for i in (torch.rand(len(images), generator=generator) < share).nonzero()[:, 0].tolist():
        side = int(torch.randint(size // 8, size // 3, (), generator=generator))
        y, x = torch.randint(0, size - side, (2,), generator=generator).tolist()
        colour = torch.rand(3, 1, 1, generator=generator)
        white = torch.rand((), generator=generator) < 0.5
        result[i, :, y : y + side, x : x + side] = 1.0 if white else colour
    return result


class Varier:
    """Draws varied batches from a fixed set of drawings."""

    def __init__(self, drawings: Drawings) -> None:
        """Number the enclosed areas of the single-colour drawings once."""
        self.pixels, self.mono = drawings.pixels, drawings.mono
        self.areas = torch.zeros(len(drawings), *drawings.pixels.shape[2:], dtype=torch.int64)
        self.areas[self.mono] = enclosed(drawings.pixels[self.mono])

    def __call__(self, pick: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The drawings `pick` (int64 [N]), varied; [N, 3, 64, 64] in [0, 1]."""
        images = to_float(self.pixels[pick])
        mono = self.mono[pick]
        if mono.any():
            images[mono] = colour_in(images[mono], self.areas[pick[mono]], generator)
        images = jitter_colours(images, generator)
        images = random_affine(
            images, generator, shift=0.07, scale=(0.75, 1.1), degrees=14, aspect=0.15
        )
        return cut_out(soften(images, generator), generator)

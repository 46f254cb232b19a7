"""Strong variations: the scorer is to learn shapes, and to survive a generator's faults.

Everything is drawn from the given generator alone, on its device.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

REGIONS = 12
"""Enclosed areas of a single-colour drawing that can be filled each in a colour of its own."""


def enclosed(alpha: torch.Tensor) -> torch.Tensor:
    """Number the areas that ink encloses, the largest as 1, and the ink beside each likewise.

    alpha: uint8 [N, S, S]. Returns uint8 [N, S, S]; 0 is outside, or ink far from an area.
    """
    labels = np.zeros(alpha.shape, np.uint8)
    for i, ink in enumerate(alpha.numpy()):
        areas, _ = ndimage.label(np.pad(ink < 128, 1, constant_values=True))
        outside = areas[0, 0]
        areas = areas[1:-1, 1:-1]
        sizes = np.bincount(areas.ravel())
        inner = [a for a in np.argsort(-sizes) if a not in (0, outside) and sizes[a] >= 4]
        for number, area in enumerate(inner[: REGIONS - 1], start=1):
            labels[i][areas == area] = number
        grown = ndimage.maximum_filter(labels[i], 3)
        labels[i] = np.where(labels[i] == 0, grown, labels[i])
    return torch.from_numpy(labels)


def colour_in(
    alpha: torch.Tensor, areas: torch.Tensor, rng: torch.Generator, share: float = 0.6
) -> torch.Tensor:
    """Draw ink in a random colour; in `share` of the drawings fill the enclosed areas too.

    alpha: [N, S, S] in [0, 1]; areas: as enclosed() numbers them. Returns sprites [N, 4, S, S],
    premultiplied.
    """
    place, count = alpha.device, len(alpha)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=rng, device=place)

    ink = rand(count, 3) * 0.8
    ink[rand(count) < 0.3] *= 0.15
    fills = 0.25 + 0.75 * rand(count, REGIONS, 3)
    one = rand(count) < 0.4
    fills[one] = fills[one][:, 1:2]
    filled = (rand(count, REGIONS) >= 0.2) & (rand(count) < share)[:, None]
    filled[:, 0] = False
    index = areas.long().flatten(1)
    paper = torch.gather(fills, 1, index[:, :, None].expand(-1, -1, 3))
    paper = paper.permute(0, 2, 1).reshape(count, 3, *alpha.shape[1:])
    under = torch.gather(filled.float(), 1, index).reshape(alpha.shape)
    ink_alpha = alpha[:, None]
    colour = ink[:, :, None, None] * ink_alpha + paper * (1 - ink_alpha) * under[:, None]
    return torch.cat([colour, ink_alpha + (1 - ink_alpha) * under[:, None]], 1)


def jitter_colours(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Change saturation, brightness and contrast; exchange the channels of a quarter.

    images: [N, 3, H, W] in [0, 1].
    """
    rand = torch.rand(len(images), 4, generator=rng, device=images.device)[:, :, None, None, None]
    grey = images.mean(1, keepdim=True)
    varied = grey + (images - grey) * (0.4 + rand[:, 0])
    varied = 1 - (1 - varied) * (0.7 + 0.5 * rand[:, 1])
    orders = torch.rand(len(images), 3, generator=rng, device=images.device).argsort(1)
    kept = torch.arange(3, device=images.device).expand_as(orders)
    orders = torch.where(rand[:, 2, :, 0, 0] < 0.25, orders, kept)
    return varied.gather(1, orders[:, :, None, None].expand_as(varied)).clamp(0, 1)


def soften(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Blur some, shrink and enlarge some, and add noise to some, as an autoencoder might."""
    kind = torch.rand(len(images), generator=rng, device=images.device)[:, None, None, None]
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], device=images.device) / 16
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    blurred = F.conv2d(padded, kernel.expand(3, 1, 3, 3), groups=3)
    small = F.interpolate(images, scale_factor=0.5, mode="area")
    coarse = F.interpolate(small, size=images.shape[-2:], mode="bilinear")
    noise = torch.randn(images.shape, generator=rng, device=images.device) * 0.04
    result = torch.where(kind < 0.2, blurred, images)
    result = torch.where((kind >= 0.2) & (kind < 0.4), coarse, result)
    return torch.where((kind >= 0.4) & (kind < 0.65), result + noise, result).clamp(0, 1)


def cut_out(images: torch.Tensor, rng: torch.Generator, share: float = 0.3) -> torch.Tensor:
    """Cover a square of up to a third of the width with a plain colour in some images."""
    count, _, height, width = images.shape
    rand = torch.rand(count, 7, generator=rng, device=images.device)
    side = width * (0.1 + 0.2 * rand[:, 0]) * (rand[:, 1] < share)
    x, y = rand[:, 2] * (width - side), rand[:, 3] * (height - side)
    across = torch.arange(width, device=images.device)
    down = torch.arange(height, device=images.device)
    inside = ((across >= x[:, None]) & (across < (x + side)[:, None]))[:, None, None, :]
    inside = inside & ((down >= y[:, None]) & (down < (y + side)[:, None]))[:, None, :, None]
    return torch.where(inside, rand[:, 4:, None, None], images)

"""How far two states of one model are apart: in predicted noise, and in drawn images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from erasekit.diffusion.sampling import generate, initial_noise
from erasekit.models.loading import LoadedModel

NOISE_SEEDS = (0, 1)
TIMES = (0.1, 0.5, 0.9)
"""Where noise is predicted, as shares of the model's training timesteps."""


@dataclass(frozen=True)
class Outputs:
    """What a model gives at fixed noise.

    Attributes:
        noise_pred: predicted noise, [N, C, h, w], float32 on the CPU.
        images: uint8 [M, H, W, 3], or None where none were drawn.
    """

    noise_pred: Tensor
    images: np.ndarray | None


@dataclass(frozen=True)
class Difference:
    """Between two `Outputs`.

    Attributes:
        noise_max: largest absolute difference of predicted noise (which is of about unit size).
        noise_mean: mean absolute difference of it.
        noise_relative: norm of the difference, in units of how far the edit is from the base.
        pixel_max: largest absolute difference of 8-bit pixels, 0 to 255.
        pixel_mean: mean absolute difference of them.
        images: how many were drawn.
    """

    noise_max: float
    noise_mean: float
    noise_relative: float
    pixel_max: int | None
    pixel_mean: float | None
    images: int


@torch.no_grad()
def outputs(model: LoadedModel, prompts: Sequence[str], images: int) -> Outputs:
    """Predicted noise for all prompts at fixed noises and times, and images of the first prompt.

    Args:
        model: in the state that is asked about.
        prompts: at least one.
        images: images to draw of the first prompt, of seeds 0, 1, ...
    """
    family = model.family
    noise = initial_noise(family, NOISE_SEEDS)
    embeds = family.embed_prompts(list(prompts))
    steps = model.pipeline.scheduler.config.num_train_timesteps
    predictions = []
    for share in TIMES:
        for embed in embeds:
            timesteps = torch.full((len(noise),), int(share * steps), device=family.device)
            conditions = embed.expand(len(noise), *embed.shape)
            predictions.append(family.predict_noise(noise, timesteps, conditions).float().cpu())
    drawn = generate(model, [prompts[0]] * images, range(images)) if images else None
    return Outputs(torch.cat(predictions), drawn)


def difference(ours: Outputs, wanted: Outputs, base: Outputs) -> Difference:
    """How far `ours` is from `wanted`, which was made from `base`."""
    gap = ours.noise_pred - wanted.noise_pred
    effect = float((wanted.noise_pred - base.noise_pred).norm())
    pixel_max, pixel_mean, count = None, None, 0
    if ours.images is not None and wanted.images is not None:
        pixels = np.abs(ours.images.astype(int) - wanted.images.astype(int))
        pixel_max, pixel_mean, count = int(pixels.max()), float(pixels.mean()), len(pixels)
    return Difference(
        float(gap.abs().max()),
        float(gap.abs().mean()),
        float(gap.norm()) / effect if effect else 0.0,
        pixel_max,
        pixel_mean,
        count,
    )

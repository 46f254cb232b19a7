"""A prepared method on the tiny model, with weights that have moved, for tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from erasekit.models.loading import LoadedModel
from erasekit.testing import Prepared as Task
from erasekit.testing import prepared

__all__ = ["Task", "clean_latents", "prepared"]


def clean_latents(model: LoadedModel, z: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
    """Predicted z_0 = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, dim=0)[timesteps].to(z)[:, None, None, None]
    return (z - (1 - abar).sqrt() * eps) / abar.sqrt()

"""The naive approaches of Bui et al., NeurIPS 2024, section 3: neutral concept, and weights."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from erasekit.config import Settings
from erasekit.methods.gradient import ErasedBatch, KeepBatch, PreservationStrategy


class NeutralPreservation(PreservationStrategy):
    """L2 = || eps_theta'(z_t, c_n) - eps_theta(z_t, c_n) ||^2, on the erased concept's z_t."""

    def keep(self, batch: ErasedBatch) -> KeepBatch:
        embeds = self.task.context.neutral_embeds.expand(len(batch.latents), -1, -1)
        return KeepBatch(batch.latents, batch.timesteps, embeds, batch.neutral_noise_pred)


class L2Config(Settings):
    """Hyperparameters of `l2`."""

    normalise: Literal["sum", "mean"] = Field(
        "sum", description="the squared distance summed over parameters in scope, or their mean"
    )


class WeightPreservation(PreservationStrategy):
    """L2 = || theta' - theta ||^2 over the parameters in scope.

    A sum over parameters unless `normalise="mean"`: the two differ by the number of parameters,
    so a lambda for one says nothing about the other.
    """

    Config = L2Config
    config: L2Config

    def loss(self, noise_pred: Tensor | None, keep: KeepBatch | None) -> Tensor:
        context = self.task.context
        distances = [
            (parameter - context.frozen.values[name]).square().sum()
            for name, parameter in context.parameters.items()
        ]
        total = torch.stack(distances).sum()
        if self.config.normalise == "mean":
            total = total / sum(p.numel() for p in context.parameters.values())
        return total

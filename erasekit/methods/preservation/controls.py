"""Controls: what an adversarial search must beat to deserve the name."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from erasekit.methods.gradient import ErasedBatch, GradientErasure, PreservationStrategy
from erasekit.methods.preservation.space import SpaceConfig, SpacePreservation


class NoPreservation(PreservationStrategy):
    """L2 = 0: shows what erasing costs when nothing is preserved."""


class RandomPreservation(SpacePreservation):
    """c_a uniform over R."""

    def choose(self, batch: ErasedBatch) -> Tensor:
        generator = self.task.context.generator(batch.step, "choose")
        return torch.randint(len(self.space), (len(batch.latents),), generator=generator)


class NearestConfig(SpaceConfig):
    """Hyperparameters of `nearest`."""

    neighbours: int = Field(6, gt=0, description="words kept per erased concept")


class NearestPreservation(SpacePreservation):
    """c_a uniform over the nearest words of its erased concept, by text embedding."""

    Config = NearestConfig
    config: NearestConfig

    def prepare(self, task: GradientErasure) -> None:
        super().prepare(task)
        similarities = self.space.similarities(task.context.erased_features)
        count = min(self.config.neighbours, len(self.space))
        self.neighbours = similarities.topk(count, dim=1).indices

    def choose(self, batch: ErasedBatch) -> Tensor:
        generator = self.task.context.generator(batch.step, "choose")
        rows = len(batch.latents)
        which = torch.randint(self.neighbours.shape[1], (rows,), generator=generator)
        return self.neighbours[batch.concepts, which]

"""Control: keep words of R drawn uniformly."""

from __future__ import annotations

import torch
from torch import Tensor

from erasekit.methods.gradient import ErasedBatch
from erasekit.methods.preservation.space import SpacePreservation


class RandomPreservation(SpacePreservation):
    """c_a uniform over R: what an adversary must beat to deserve the name."""

    def choose(self, batch: ErasedBatch) -> Tensor:
        generator = self.task.context.generator(batch.step, "choose")
        return torch.randint(len(self.space), (len(batch.latents),), generator=generator)

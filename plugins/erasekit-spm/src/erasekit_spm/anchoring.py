"""Latent anchoring: words of R are kept, those far from the erased concept more often."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from erasekit.methods.gradient import ErasedBatch, GradientErasure
from erasekit.methods.preservation.space import SpaceConfig, SpacePreservation


class AnchoringConfig(SpaceConfig):
    """`SpaceConfig` says where R comes from."""

    anchor_power: float = Field(
        1.0, ge=0, description="alpha: a word is drawn with weight (1 - cosine)^alpha; 0: uniformly"
    )


class LatentAnchoring(SpacePreservation):
    """Beside each row one word, drawn with probability proportional to (1 - cos(c, c_e))^alpha.

    The cosine is that of the text encoder's pooled vectors.
    """

    Config = AnchoringConfig
    config: AnchoringConfig

    def prepare(self, task: GradientErasure) -> None:
        super().prepare(task)
        similarities = self.space.similarities(task.context.erased_features)
        self.weights = anchor_weights(similarities, self.config.anchor_power)

    def choose(self, batch: ErasedBatch) -> Tensor:
        generator = self.task.context.generator(batch.step, "choose")
        weights = self.weights[batch.concepts]
        return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def anchor_weights(similarities: Tensor, power: float) -> Tensor:
    """Weights of the words beside each erased concept, [E, K], rows of sum 1, on the CPU.

    Args:
        similarities: cosines of erased concepts and words, [E, K].
        power: alpha.
    """
    weights = (1 - similarities.detach().cpu().double()).clamp_min(1e-9) ** power
    return weights / weights.sum(dim=1, keepdim=True)

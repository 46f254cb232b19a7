"""The adversarial concept as a free embedding, searched by projected gradient ascent."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from erasekit.config import Settings
from erasekit.diffusion.concept_space import ConceptSpace
from erasekit.methods.base import ErasureContext
from erasekit.methods.gradient import (
    ErasedBatch,
    GradientErasure,
    KeepBatch,
    PreservationStrategy,
)


class PGDConfig(Settings):
    """Hyperparameters of `pgd`."""

    eta: float = Field(1e-2, gt=0, description="step length as a share of the norm of c_a")
    ascent_steps: int = Field(3, ge=0, description="ascent steps on c_a per outer step")
    start: Literal["concept", "neutral"] = Field(
        "concept", description="where c_a starts: at the erased concept or the neutral one"
    )
    carry_over: bool = Field(True, description="c_a goes on from the last outer step")
    concept_space: str = Field(
        "", description="words that the history names c_a by; empty: the model's own"
    )


class PGDPreservation(PreservationStrategy):
    """c_a <- c_a + eta ||c_a|| g / ||g||,  g = grad of L2 in c_a, measured on c_e's own z_t.

    Bui et al., NeurIPS 2024, section 4, eq. 5. No projection, as in the authors' experiments; the
    frozen prediction and z_t are detached. Where g is zero, as in the first step, where theta' is
    theta, c_a stays. Started at c_e, its keep term opposes the erase term; c_a may drift to where
    no word is.
    """

    Config = PGDConfig
    config: PGDConfig
    adversarial = True
    state = ("c_a",)
    space: ConceptSpace

    def expected_passes(self, context: ErasureContext, rows: int) -> float:
        """Each ascent a frozen pass and one with a gradient; the kept rows' frozen prediction."""
        return float(rows * (4 * self.config.ascent_steps + 1))

    def prepare(self, task: GradientErasure) -> None:
        super().prepare(task)
        context = task.context
        starts = context.erased_embeds
        if self.config.start == "neutral":
            starts = context.neutral_embeds.expand_as(starts)
        self.start = starts.clone()
        self.c_a = starts.clone()
        self.space = context.concept_space(self.config.concept_space)

    def ascend(self, batch: ErasedBatch) -> None:
        if not self.config.carry_over:
            self.c_a = self.start.clone()
        present = torch.unique(batch.concepts)
        for _ in range(self.config.ascent_steps):
            c_a = self.c_a.clone().requires_grad_(True)
            embeds = c_a[batch.concepts]
            target = self.task.frozen_noise(batch.latents, batch.timesteps, embeds.detach())
            noise_pred = self.task.family.predict_noise(batch.latents, batch.timesteps, embeds)
            gain = self.task.mse(noise_pred, target, batch.timesteps)
            (gradient,) = torch.autograd.grad(gain, c_a)
            self.c_a[present] = normalised_ascent(
                self.c_a[present], gradient[present], self.config.eta
            )

    def keep(self, batch: ErasedBatch) -> KeepBatch:
        embeds = self.c_a[batch.concepts]
        target = self.task.frozen_noise(batch.latents, batch.timesteps, embeds)
        return KeepBatch(batch.latents, batch.timesteps, embeds, target)

    def describe(self) -> list[dict[str, Any]]:
        rows = []
        for e, (c_a, start) in enumerate(zip(self.c_a, self.start, strict=True)):
            shift = float((c_a - start).norm() / start.norm())
            rows.append(self.described(e, shift=shift, nearest=self.space.nearest_word(c_a)))
        return rows

    def adversaries(self) -> Tensor | None:
        return self.c_a


def normalised_ascent(c_a: Tensor, gradient: Tensor, eta: float) -> Tensor:
    """c_a + eta ||c_a|| g / ||g|| for each concept [E, L, D]; unmoved where g is zero."""
    norm = gradient.flatten(1).norm(dim=1)
    length = torch.where(norm > 0, eta * c_a.flatten(1).norm(dim=1) / norm.clamp_min(1e-30), 0.0)
    return c_a + length[:, None, None] * gradient

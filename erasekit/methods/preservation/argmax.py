"""The adversarial concept found by scoring R, not by a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from erasekit.methods.gradient import ErasedBatch, GradientErasure, KeepBatch
from erasekit.methods.preservation.space import SpaceConfig, SpacePreservation


class ArgmaxConfig(SpaceConfig):
    """Hyperparameters of `argmax`."""

    refresh: int = Field(4, gt=0, description="outer steps between two scorings")
    candidates: int = Field(16, gt=0, description="words of R scored at a time")
    hardest: int = Field(8, gt=0, description="words with the largest harm that are kept")
    memory: float = Field(0.5, ge=0, lt=1, description="weight of a word's earlier scores")
    mixture: bool = Field(
        False, description="keep the mean of the hardest words by their harm, not one of them"
    )


class ArgmaxPreservation(SpacePreservation):
    """c_a uniform over the words of R with the largest L2 right now.

    Every `refresh` steps a batch of words is scored on one shared z_t of the erased concept: a
    frozen and a trained forward pass a word, no trajectory and no gradient, so that R may be
    large. Words that were never scored come first, the nearest among them before the others, then
    words drawn at random. A word's harm is an exponential mean of its L2 over the mean L2
    of the words scored with it. Until something is known, the nearest words are kept. With
    `mixture` a row keeps the mean of the hardest words, weighted by their harm, on the z_t of one.
    """

    Config = ArgmaxConfig
    config: ArgmaxConfig

    def prepare(self, task: GradientErasure) -> None:
        super().prepare(task)
        self.harm = torch.zeros(len(self.space))
        self.scored = torch.zeros(len(self.space), dtype=torch.bool)

    @torch.no_grad()
    def ascend(self, batch: ErasedBatch) -> None:
        if batch.step == 0 or (batch.step - 1) % self.config.refresh:
            return  # in the first step theta' is theta, and harms nothing
        words = self.candidates(self.task.context.generator(batch.step, "score"))
        latents = batch.latents[:1].expand(len(words), -1, -1, -1)
        timesteps = batch.timesteps[:1].expand(len(words))
        embeds = self.space.prompt_embeds[words]
        noise_pred = self.task.family.predict_noise(latents, timesteps, embeds)
        target = self.task.frozen_noise(latents, timesteps, embeds)
        errors = (noise_pred - target).square().flatten(1).mean(dim=1).cpu()
        harm = errors / errors.mean().clamp_min(torch.finfo(errors.dtype).tiny)
        mixed = self.config.memory * self.harm[words] + (1 - self.config.memory) * harm
        self.harm[words] = torch.where(self.scored[words], mixed, harm)
        self.scored[words] = True

    def candidates(self, generator: torch.Generator) -> Tensor:
        """Words to score: those never scored, in R's order, then others at random, [N], int64."""
        fresh = torch.nonzero(~self.scored).flatten()
        rest = torch.nonzero(self.scored).flatten()
        rest = rest[torch.randperm(len(rest), generator=generator)]
        return torch.cat([fresh, rest])[: self.config.candidates]

    def hardest(self) -> Tensor:
        """Words with the largest harm, [N], int64; of equal ones the nearest."""
        order = self.harm.argsort(descending=True, stable=True)  # R is sorted, nearest first
        return order[: self.config.hardest]

    def choose(self, batch: ErasedBatch) -> Tensor:
        generator = self.task.context.generator(batch.step, "choose")
        hardest = self.hardest()
        which = torch.randint(len(hardest), (len(batch.latents),), generator=generator)
        return hardest[which]

    def keep(self, batch: ErasedBatch) -> KeepBatch:
        """One of the hardest words a row or, as a `mixture`, their mean on the z_t of one."""
        kept = super().keep(batch)
        if not self.config.mixture:
            return kept
        hardest = self.hardest()
        harm = self.harm[hardest].to(self.space.prompt_embeds)
        weights = (harm / harm.sum()) if harm.sum() > 0 else torch.full_like(harm, 1 / len(harm))
        mean = torch.einsum("k,kld->ld", weights, self.space.prompt_embeds[hardest])
        embeds = mean.expand(len(self.chosen), -1, -1)
        noise_pred = self.task.frozen_noise(kept.latents, kept.timesteps, embeds)
        return KeepBatch(kept.latents, kept.timesteps, embeds, noise_pred)

    def describe_search(self, erased: int) -> dict[str, Any]:
        return {"nearest": self.space.words[int(self.harm.argmax())]}

    def state_dict(self) -> dict[str, Tensor]:
        return {"harm": self.harm, "scored": self.scored}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.harm, self.scored = state["harm"].clone(), state["scored"].clone()

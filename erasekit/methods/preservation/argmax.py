"""The adversarial concept found by scoring R, not by a gradient."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from erasekit.methods.base import ErasureContext
from erasekit.methods.gradient import ErasedBatch, GradientErasure, KeepBatch
from erasekit.methods.preservation.space import SpaceConfig, SpacePreservation

TINY = torch.finfo(torch.float32).tiny


class ArgmaxConfig(SpaceConfig):
    """Hyperparameters of `argmax`."""

    refresh: int = Field(4, gt=0, description="outer steps between two scorings")
    candidates: int = Field(16, gt=0, description="words of R scored at a time")
    candidates_by: Literal["random", "bounds"] = Field(
        "random",
        description="which words are scored once all have been: any, or those with the largest "
        "upper confidence bound of their harm",
    )
    exploration: float = Field(
        0.5, ge=0, description="width of the upper confidence bound; 0 scores the hardest alone"
    )
    hardest: int = Field(8, gt=0, description="words with the largest harm that are kept")
    memory: float = Field(0.5, ge=0, lt=1, description="weight of a word's earlier scores")
    mixture: bool = Field(
        False, description="keep the mean of the hardest words by their harm, not one of them"
    )


class ArgmaxPreservation(SpacePreservation):
    """c_a uniform over the words of R with the largest L2 right now.

    Every `refresh` steps a batch of words is scored on a z_t of each erased concept, all at one
    timestep, by the mean of its L2 there: a frozen and a trained forward pass a word and erased
    concept, no gradient, and no trajectory where they are kept, so that R may be large. Words that
    were never scored come first, the nearest among them before the others, then words drawn at
    random or, by `candidates_by="bounds"`, those that a discounted upper confidence bound ranks
    highest (Garivier and Moulines, ALT 2011), so that few words need be scored.

    A word's harm is an exponential mean of its relative L2. L2 at different z_t can't be compared,
    so it is taken relative to the words that were scored with it: such that the mean over those
    known from before stays what it was, whichever they are; at first, and for words drawn at
    random, whose mean is that of R, such that the mean over all of them is 1.

    Until something is known, the nearest words are kept. With `mixture` a row keeps the mean of
    the hardest words, weighted by their harm, on the z_t of one.
    """

    Config = ArgmaxConfig
    config: ArgmaxConfig
    adversarial = True
    state = ("harm", "scored", "counts")

    def expected_passes(self, context: ErasureContext, rows: int) -> float:
        """A frozen and a trained pass for each word that is scored, on z_t of each erased concept;
        one for each mixture."""
        scored = min(self.config.candidates, self.words_searched(context))
        mixed = rows * self.config.keep_rows if self.config.mixture else 0
        return 2 * scored * len(context.erasure.erased) / self.config.refresh + mixed

    def prepare(self, task: GradientErasure) -> None:
        super().prepare(task)
        self.harm = torch.zeros(len(self.space))
        self.scored = torch.zeros(len(self.space), dtype=torch.bool)
        self.counts = torch.zeros(len(self.space))  # of scorings, discounted by `memory`

    @torch.no_grad()
    def ascend(self, batch: ErasedBatch) -> None:
        if batch.step == 0 or (batch.step - 1) % self.config.refresh:
            return  # in the first step theta' is theta, and harms nothing
        generator = self.task.context.generator(batch.step, "score")
        words = self.candidates(generator)
        concepts = torch.arange(len(self.task.context.erasure.erased))
        drawn = self.task.erased_source.draw(concepts, generator, shared_timestep=True)
        latents = drawn.latents.repeat_interleave(len(words), dim=0)
        timesteps = drawn.timesteps.repeat_interleave(len(words))
        embeds = self.space.prompt_embeds[words.repeat(len(concepts))]
        noise_pred = self.task.family.predict_noise(latents, timesteps, embeds)
        target = self.task.frozen_noise(latents, timesteps, embeds)
        errors = (noise_pred - target).square().flatten(1).mean(dim=1)
        errors = errors.reshape(len(concepts), -1).mean(dim=0).cpu()
        self.learn(words, errors)

    def learn(self, words: Tensor, errors: Tensor) -> None:
        """Take in the L2 of words that were scored together.

        Args:
            words: indices into R, [N], int64.
            errors: their L2, [N].
        """
        known = self.scored[words]
        unit = errors.mean()
        before = self.harm[words][known]
        if self.config.candidates_by == "bounds" and before.sum() > 0:
            unit = errors[known].mean() / before.mean()
        harm = errors / unit.clamp_min(TINY)
        mixed = self.config.memory * self.harm[words] + (1 - self.config.memory) * harm
        self.harm[words] = torch.where(known, mixed, harm)
        self.scored[words] = True
        self.counts *= self.config.memory
        self.counts[words] += 1

    def candidates(self, generator: torch.Generator) -> Tensor:
        """Words to score: those never scored, in R's order, then of the others, [N], int64."""
        fresh = torch.nonzero(~self.scored).flatten()
        rest = torch.nonzero(self.scored).flatten()
        rest = rest[torch.randperm(len(rest), generator=generator)]  # of equal ones any
        if self.config.candidates_by == "bounds":
            rest = rest[self.bounds()[rest].argsort(descending=True, stable=True)]
        return torch.cat([fresh, rest])[: self.config.candidates]

    def bounds(self) -> Tensor:
        """Upper confidence bounds of harm, [K]: harm + exploration sqrt(log(1 + n) / n_k).

        n_k are the discounted numbers of scorings, n is their sum.
        """
        width = torch.log1p(self.counts.sum()) / self.counts.clamp_min(TINY)
        return self.harm + self.config.exploration * width.sqrt()

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

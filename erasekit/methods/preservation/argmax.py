"""The adversarial concept found by scoring R, not by a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from erasekit.methods.gradient import ErasedBatch, GradientErasure
from erasekit.methods.preservation.space import SpaceConfig, SpacePreservation


class ArgmaxConfig(SpaceConfig):
    """Hyperparameters of `argmax`."""

    refresh: int = Field(5, gt=0, description="outer steps between two scorings of R")
    candidates: int = Field(64, gt=0, description="words scored at a time, in turn over R")
    hardest: int = Field(8, gt=0, description="words with the largest harm that are kept")
    memory: float = Field(0.5, ge=0, lt=1, description="weight of a word's earlier scores")


class ArgmaxPreservation(SpacePreservation):
    """c_a uniform over the words of R with the largest L2 right now.

    Every `refresh` steps a batch of words is scored, all on one starting noise and timestep, by
    forward passes alone: the frozen predictions there are known. A word's harm is an
    exponential mean of its scores; words never scored come first.
    """

    Config = ArgmaxConfig
    config: ArgmaxConfig

    def prepare(self, task: GradientErasure) -> None:
        super().prepare(task)
        self.harm = torch.full((len(self.space),), torch.inf)
        self.cursor = 0

    @torch.no_grad()
    def ascend(self, batch: ErasedBatch) -> None:
        if batch.step % self.config.refresh:
            return
        generator = self.task.context.generator(batch.step, "score")
        count = min(self.config.candidates, len(self.space))
        scored = (torch.arange(count) + self.cursor) % len(self.space)
        self.cursor = int(scored[-1] + 1) % len(self.space)
        drawn = self.source.draw(scored, generator, shared_timestep=True)
        noise_pred = self.task.family.predict_noise(
            drawn.latents, drawn.timesteps, self.space.prompt_embeds[scored]
        )
        errors = (noise_pred - drawn.noise_pred).square().flatten(1).mean(dim=1).cpu()
        before = self.harm[scored]
        mixed = self.config.memory * before + (1 - self.config.memory) * errors
        self.harm[scored] = torch.where(before.isinf(), errors, mixed)

    def choose(self, batch: ErasedBatch) -> Tensor:
        generator = self.task.context.generator(batch.step, "choose")
        hardest = self.harm.topk(min(self.config.hardest, len(self.space))).indices
        which = torch.randint(len(hardest), (len(batch.latents),), generator=generator)
        return hardest[which]

    def describe_search(self, erased: int) -> dict[str, Any]:
        return {"nearest": self.space.words[int(self.harm.argmax())]}

    def state_dict(self) -> dict[str, Tensor]:
        return {"harm": self.harm, "cursor": torch.tensor(self.cursor)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.harm = state["harm"].clone()
        self.cursor = int(state["cursor"])

"""A preservation strategy: of a few words drawn in each step, keep the one harmed most."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from erasekit.methods.gradient import ErasedBatch
from erasekit.methods.preservation.space import SpaceConfig, SpacePreservation


class HardestConfig(SpaceConfig):
    """`SpaceConfig` says where R comes from; this adds how much of it is looked at."""

    sample: int = Field(8, gt=0, description="words of R that are drawn and scored in each step")
    kept: int = Field(2, gt=0, description="how many of them are kept: those harmed most")


class HardestOfSample(SpacePreservation):
    """c_a uniform over the `kept` most harmed of `sample` words, by one forward pass.

    Harm is L2 = || eps_theta'(z_t, c) - eps_theta(z_t, c) ||^2, for all words on one starting
    noise and timestep. `SpacePreservation` does the rest: it embeds R, keeps trajectories of
    its words, and turns the chosen indices into rows of the keep branch.
    """

    Config = HardestConfig
    config: HardestConfig

    @torch.no_grad()
    def choose(self, batch: ErasedBatch) -> Tensor:
        """Indices into `self.space` of the words kept beside each row, [B], int64."""
        generator = self.task.context.generator(batch.step, "choose")
        sample = torch.randperm(len(self.space), generator=generator)[: self.config.sample]
        drawn = self.source.draw(sample, generator, shared_timestep=True)
        noise_pred = self.task.family.predict_noise(
            drawn.latents, drawn.timesteps, self.space.prompt_embeds[sample]
        )
        harm = (noise_pred - drawn.noise_pred).square().flatten(1).mean(dim=1).cpu()
        hardest = sample[harm.topk(min(self.config.kept, len(sample))).indices]
        which = torch.randint(len(hardest), (len(batch.latents),), generator=generator)
        return hardest[which]

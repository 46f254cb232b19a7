"""Clean latents, such as the frozen model draws, noised to any timestep as in its training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erasekit.diffusion.sampling import initial_noise
from erasekit.diffusion.scope import FrozenWeights
from erasekit.diffusion.solvers import DDIM
from erasekit.diffusion.trajectories import trajectory_seed
from erasekit.models.families import FamilyAdapter


@dataclass(frozen=True)
class NoisedBatch:
    """Clean latents with noise added to them.

    Attributes:
        latents: z_t, [B, C, h, w].
        timesteps: t, [B], int64.
        noise: the noise in z_t, [B, C, h, w].
    """

    latents: Tensor
    timesteps: Tensor
    noise: Tensor


class CleanLatents:
    """z_0 of pictures, [N, C, h, w], which can be noised to any timestep.

    Attributes:
        latents: z_0, [N, C, h, w].
        prompts: which prompt each image is of, [N], int64.
    """

    def __init__(self, family: FamilyAdapter, latents: Tensor, prompts: Tensor) -> None:
        self.family, self.latents, self.prompts = family, latents, prompts

    def draw(
        self, images: Tensor, generator: torch.Generator, timesteps: Tensor | None = None
    ) -> NoisedBatch:
        """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps (Ho et al., NeurIPS 2020, eq. 4).

        Args:
            images: which image each row is of, [B], int64.
            generator: draws timesteps and noise.
            timesteps: t of each row, [B], int64, on the CPU; None draws them uniformly over all of
                the model's.
        """
        alphas = self.family.alphas_cumprod
        if timesteps is None:
            timesteps = torch.randint(len(alphas), (len(images),), generator=generator)
        clean = self.latents[images.to(self.latents.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        kept = alphas[timesteps.to(alphas.device)][:, None, None, None]
        latents = (kept.sqrt() * clean + (1 - kept).sqrt() * noise).to(clean.dtype)
        return NoisedBatch(latents, timesteps.to(clean.device), noise)


class GeneratedLatents(CleanLatents):
    """z_0 of the frozen model, drawn once and kept; what a data set is to diffusion training.

    Args:
        prompt_embeds: the prompts, [P, L, D]; image n is of prompt n mod P.
        count: images N.
        num_inference_steps: solver steps (DDIM).
        guidance_scale: guidance against the unconditional prompt.
        seed: decides the starting noises; image n has the one of `trajectory_seed(seed, n)`.
        frozen: the original weights, swapped in while sampling.
        batch_size: images drawn at once.

    Raises:
        ConfigError: no solver steps, or more than the model has timesteps.
    """

    def __init__(
        self,
        family: FamilyAdapter,
        prompt_embeds: Tensor,
        count: int,
        *,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
        frozen: FrozenWeights,
        batch_size: int = 32,
    ) -> None:
        prompts = torch.arange(count) % len(prompt_embeds)
        solver = DDIM(family, num_inference_steps)
        drawn = []
        with torch.no_grad(), frozen.swapped():
            for numbers in torch.split(torch.arange(count), batch_size):
                embeds = prompt_embeds[prompts[numbers].to(prompt_embeds.device)]
                seeds = [trajectory_seed(seed, int(n)) for n in numbers]
                noise = initial_noise(family, seeds) * solver.scheduler.init_noise_sigma
                drawn.append(solver.solve(noise, embeds, guidance_scale, num_inference_steps))
        super().__init__(family, torch.cat(drawn), prompts)

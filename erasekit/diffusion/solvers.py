"""How z_t goes on from one timestep of a trajectory to the next: solvers of the sampling ODE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from erasekit.diffusion.sampling import check_steps, guided
from erasekit.models.families import FamilyAdapter

SolverName = Literal["ddim", "dpmsolver++"]
Spacing = Literal["model", "trailing"]


class Solver(ABC):
    """One solver, on the timesteps that DDIM has with the model's own noise schedule.

    Args:
        num_inference_steps: solver steps S.
        spacing: of the timesteps; "model" is the model's own, "trailing" begins at the last one
            (Lin et al., WACV 2024), which matters where steps are few.

    Attributes:
        looks_back: whether a step needs the prediction of the step before it, too.
        timesteps: [S], int64, falling.
        bins: [S + 1], int64, falling: bin s, from `bins[s + 1]` up to and without `bins[s]`, has
            the timesteps that are told as `timesteps[s]`.

    Raises:
        ConfigError: no steps, or more than the model has timesteps.
    """

    looks_back: ClassVar[bool] = False

    def __init__(
        self, family: FamilyAdapter, num_inference_steps: int, spacing: Spacing = "model"
    ) -> None:
        self.family = family
        self.scheduler = ddim_scheduler(family.pipeline, num_inference_steps, spacing)
        self.timesteps: Tensor = self.scheduler.timesteps
        last = torch.tensor([len(family.alphas_cumprod)], device=self.timesteps.device)
        self.bins = torch.cat([last, self.timesteps - self.timesteps[-1]])

    @abstractmethod
    def step(
        self, s: int, latents: Tensor, output: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """z_t at solver step s + 1, [B, C, h, w].

        Args:
            s: the solver step, from 0.
            latents: z_t before it, [B, C, h, w].
            output: what the UNet gives there, guided, [B, C, h, w].
            before: latents and guided noise prediction at solver step s - 1; a solver that
                does not look back is given None.
        """

    def solve(
        self, latents: Tensor, prompt_embeds: Tensor, guidance_scale: float, steps: int
    ) -> Tensor:
        """z_t after `steps` solver steps from starting latents [B, C, h, w], with guidance."""
        family, before = self.family, None
        embeds = family.unconditional_embeds().expand_as(prompt_embeds)
        embeds = torch.cat([embeds, prompt_embeds])
        for s, t in enumerate(self.timesteps[:steps]):
            inputs = torch.cat([latents, latents])
            output = family.predict_output(inputs, t.expand(len(inputs)), embeds)
            uncond, cond = output.chunk(2)
            output = guided(uncond, cond, guidance_scale)
            following = self.step(s, latents, output, before)
            if self.looks_back:
                before = latents, family.to_noise(output, latents, t.expand(len(latents)))
            latents = following
        return latents


class DDIM(Solver):
    """The first-order solver of Song et al., ICLR 2021, without noise (eta = 0)."""

    def step(
        self, s: int, latents: Tensor, output: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        t = self.timesteps[s]
        following: Tensor = self.scheduler.step(output, t, latents, return_dict=False)[0]
        return following


class DPMSolverPlusPlus(Solver):
    """The second-order multistep solver DPM-Solver++(2M), Lu et al., 2022, algorithm 2.

    With lambda_s = log(alpha_s / sigma_s), h_s = lambda_{s+1} - lambda_s, r = h_{s-1} / h_s and
    the predicted clean latents x_s = (z_s - sigma_s eps_s) / alpha_s:

        D = x_s + (x_s - x_{s-1}) / (2 r)
        z_{s+1} = sigma_{s+1} / sigma_s z_s - alpha_{s+1} (exp(-h_s) - 1) D

    The first step has D = x_0, which is DDIM's. Computed in float32.
    """

    looks_back = True

    def __init__(
        self, family: FamilyAdapter, num_inference_steps: int, spacing: Spacing = "model"
    ) -> None:
        super().__init__(family, num_inference_steps, spacing)
        kept = family.alphas_cumprod.double().cpu()[self.timesteps.cpu()].tolist()
        self.alphas = [math.sqrt(a) for a in kept]
        self.sigmas = [math.sqrt(1 - a) for a in kept]
        self.log_snr = [math.log(a / s) for a, s in zip(self.alphas, self.sigmas, strict=True)]

    def step(
        self, s: int, latents: Tensor, output: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        timesteps = self.timesteps[s].expand(len(latents))
        data = self._clean(s, latents, self.family.to_noise(output, latents, timesteps))
        h = self.log_snr[s + 1] - self.log_snr[s]
        if before is not None:
            r = (self.log_snr[s] - self.log_snr[s - 1]) / h
            data = data + (data - self._clean(s - 1, *before)) / (2 * r)
        shrunk = self.sigmas[s + 1] / self.sigmas[s] * latents.float()
        following = shrunk - self.alphas[s + 1] * math.expm1(-h) * data
        return following.to(latents.dtype)

    def _clean(self, s: int, latents: Tensor, noise_pred: Tensor) -> Tensor:
        return (latents.float() - self.sigmas[s] * noise_pred.float()) / self.alphas[s]


SOLVERS: dict[SolverName, type[Solver]] = {"ddim": DDIM, "dpmsolver++": DPMSolverPlusPlus}


def ddim_scheduler(pipeline: Any, num_inference_steps: int, spacing: Spacing = "model") -> Any:
    """A DDIM scheduler with the model's own noise schedule and prediction, its timesteps set.

    Its steps take what the UNet gives. Latents are not clipped unless the model's scheduler
    clips them: not every kind of scheduler has the option, and DDIM alone would by default.

    Raises:
        ConfigError: no steps, or more than the model has timesteps.
    """
    from diffusers import DDIMScheduler

    check_steps(pipeline, num_inference_steps)
    config = dict(pipeline.scheduler.config)
    own = {key: config.get(key, False) for key in ("clip_sample", "set_alpha_to_one")}
    if spacing != "model":
        own["timestep_spacing"] = spacing
    scheduler = DDIMScheduler.from_config({**config, **own})
    scheduler.set_timesteps(num_inference_steps, device=pipeline.unet.device)
    return scheduler

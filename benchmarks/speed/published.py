"""Adversarial preservation by Gumbel search, on the schedule as published.

A plain reference to measure against: correct, and not slowed down on purpose. Every loop samples
two partial trajectories from the model being trained, with guidance and from one starting noise,
one after the other; then three passes of a second, frozen copy of the UNet, and two of the trained
one. Loops take turns, a step on theta' (descent on both losses) first, then a step on pi (ascent on
the keep term alone); both compute the whole objective. Losses are on predicted clean latents. The
timestep that the UNets are told is drawn from the bin of the solver's timestep that z_t is at.

Two things are not the authors': by an index that is off, their sampler leaves out its first
timestep and goes two steps further than the bin, where z_t here is at the bin's own timestep; and
pi's rate, 1e-2 for their 1,000 ascents, is 10 by the number of ascents, so that pi moves as far in
a shorter run.

Random numbers are those that erasekit draws for the same step and purpose, so that its recipe
`published` must give the same edit to rounding (tests/benchmarks/test_published.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.methods.base import step_generator
from erasekit.models.unet_passes import PassCount


@dataclass(frozen=True)
class PublishedConfig:
    """What the authors' experiments used where the poster leaves it open.

    Attributes:
        steps: on theta'; between any two of them there is one on pi.
        learning_rate: Adam on theta'.
        ascent_lr: Adam on pi; None is 10 by the number of steps.
        temperature: T of the Gumbel softmax, hard samples.
        ddim_steps: solver steps of a whole trajectory.
        guidance_scale: while sampling z_t.
        negative_guidance: g of the erase target.
        keep_weight: lambda.
    """

    steps: int = 1000
    learning_rate: float = 1e-5
    ascent_lr: float | None = None
    temperature: float = 2.0
    ddim_steps: int = 50
    guidance_scale: float = 3.0
    negative_guidance: float = 1.0
    keep_weight: float = 1.0


class CountedUNet:
    """A UNet that counts its passes, batch-weighted."""

    def __init__(self, unet: nn.Module, passes: PassCount) -> None:
        self.unet, self.passes = unet, passes

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        noise_pred: Tensor = self.unet(
            latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False
        )[0]
        self.passes.forward += len(latents)
        if noise_pred.requires_grad:
            noise_pred.register_hook(lambda _: self._backward(len(latents)))
        return noise_pred

    def _backward(self, count: int) -> None:
        self.passes.backward += count


def erase_as_published(
    pipeline: Any,
    erased_embeds: Tensor,
    space_embeds: Tensor,
    empty_embeds: Tensor,
    config: PublishedConfig,
    seed: int = 0,
    *,
    passes: PassCount | None = None,
    on_weights: Callable[[int, Mapping[str, Tensor]], None] = lambda step, values: None,
) -> tuple[dict[str, Tensor], PassCount]:
    """Train on the published schedule; the pipeline is left as it was.

    Args:
        pipeline: a Stable Diffusion 1.x pipeline that predicts noise.
        erased_embeds: tau(c_e), [1, L, D].
        space_embeds: embeddings of R, [K, L, D].
        empty_embeds: tau(""), [1, L, D].
        config: see `PublishedConfig`.
        seed: of all random numbers.
        passes: counts on; None begins at 0.
        on_weights: called after every step on theta', with the number of them and the trained
            cross-attention tensors.

    Returns:
        The trained cross-attention tensors by name, and the passes.
    """
    from diffusers import DDIMScheduler

    passes = passes or PassCount()
    trained_unet = copy.deepcopy(pipeline.unet).requires_grad_(True)
    frozen = CountedUNet(pipeline.unet, passes)
    trained = CountedUNet(trained_unet, passes)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(config.ddim_steps)
    bin_size = scheduler.config.num_train_timesteps // config.ddim_steps

    chosen = {n: p for n, p in trained_unet.named_parameters() if "attn2" in n}
    optimizer = torch.optim.Adam(chosen.values(), lr=config.learning_rate)
    pi = torch.zeros(len(space_embeds), requires_grad=True)
    rate = config.ascent_lr or 10 / config.steps
    pi_optimizer = torch.optim.Adam([pi], lr=rate, maximize=True)
    unet_config = pipeline.unet.config
    shape = (1, unet_config.in_channels, unet_config.sample_size, unet_config.sample_size)

    @torch.no_grad()
    def partial_trajectory(noise: Tensor, prompt_embeds: Tensor, stop: int) -> Tensor:
        latents = noise * scheduler.init_noise_sigma
        both = torch.cat([empty_embeds, prompt_embeds])
        for t in scheduler.timesteps[:stop]:
            uncond, cond = trained(torch.cat([latents] * 2), t.expand(2), both).chunk(2)
            noise_pred = uncond + config.guidance_scale * (cond - uncond)
            latents = scheduler.step(noise_pred, t, latents, return_dict=False)[0]
        return latents

    def losses(words: torch.Generator, latents: torch.Generator) -> tuple[Tensor, Tensor]:
        """The erase and the keep term of one loop, from these random numbers."""
        uniform = torch.rand((1, len(pi)), generator=words).clamp(1e-10, 1 - 1e-7)
        gumbel = -torch.log(-torch.log(uniform))
        y = torch.softmax((pi + gumbel) / config.temperature, dim=1)
        hard = torch.zeros_like(y).scatter(1, y.argmax(1, keepdim=True), 1.0)
        adversarial = torch.einsum("bk,kld->bld", hard + (y - y.detach()), space_embeds)

        stop = int(torch.randint(config.ddim_steps, (1,), generator=latents))
        solver_t = scheduler.timesteps[stop]
        in_bin = bin_size * torch.rand((1,), generator=latents)
        t = solver_t - scheduler.timesteps[-1] + in_bin.long()
        noise = torch.randn(shape[1:], generator=latents)[None]
        z_erased = partial_trajectory(noise, erased_embeds, stop)
        z_adversarial = partial_trajectory(noise, adversarial.detach(), stop)
        with torch.no_grad():
            neutral = frozen(z_erased, t, empty_embeds)
            erased = frozen(z_erased, t, erased_embeds)
            kept = frozen(z_adversarial, t, adversarial.detach())
        abar = scheduler.alphas_cumprod[solver_t]

        def clean(z: Tensor, noise_pred: Tensor) -> Tensor:
            return (z - (1 - abar).sqrt() * noise_pred) / abar.sqrt()

        towards, away = clean(z_erased, neutral), clean(z_erased, erased)
        target = towards - config.negative_guidance * (away - towards)
        erase_pred = clean(z_erased, trained(z_erased, t, erased_embeds))
        keep_pred = clean(z_adversarial, trained(z_adversarial, t, adversarial))
        keep_target = clean(z_adversarial, kept)
        return (erase_pred - target).square().mean(), (keep_pred - keep_target).square().mean()

    for step in range(config.steps):
        if step:
            searching = step_generator(seed, step, "ascend 0")
            _, keep_loss = losses(searching, searching)
            pi.grad = None
            keep_loss.backward()
            pi_optimizer.step()
        erase_loss, keep_loss = losses(
            step_generator(seed, step, "keep"), step_generator(seed, step, "latents")
        )
        trained_unet.zero_grad(set_to_none=True)
        (erase_loss + config.keep_weight * keep_loss).backward()
        optimizer.step()
        on_weights(step + 1, {name: p.detach() for name, p in chosen.items()})

    return {name: p.detach().clone() for name, p in chosen.items()}, passes

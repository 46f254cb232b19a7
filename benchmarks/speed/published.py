"""Adversarial preservation by Gumbel search, on the schedule as published.

A plain reference to measure against: correct, and not slowed down on purpose. Every loop samples
two partial trajectories from the model being trained, with guidance, one after the other; then
three passes of a second, frozen copy of the UNet, and two of the trained one. Loops alternate
between a step on pi (ascent) and a step on theta' (descent); both compute the whole objective.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.models.unet_passes import PassCount


@dataclass(frozen=True)
class PublishedConfig:
    """What the authors' experiments used where the poster leaves it open.

    Attributes:
        loops: half of them move pi, half theta'.
        learning_rate: Adam on theta'.
        ascent_lr: Adam on pi.
        temperature: T of the Gumbel softmax, hard samples.
        ddim_steps: solver steps of a whole trajectory.
        guidance_scale: while sampling z_t.
        negative_guidance: g of the erase target.
        keep_weight: lambda.
    """

    loops: int = 2000
    learning_rate: float = 1e-5
    ascent_lr: float = 1e-2
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

    generator = torch.Generator("cpu").manual_seed(seed)
    passes = passes or PassCount()
    trained_unet = copy.deepcopy(pipeline.unet).requires_grad_(True)
    frozen = CountedUNet(pipeline.unet, passes)
    trained = CountedUNet(trained_unet, passes)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(config.ddim_steps)

    chosen = {n: p for n, p in trained_unet.named_parameters() if "attn2" in n}
    optimizer = torch.optim.Adam(chosen.values(), lr=config.learning_rate)
    pi = torch.zeros(len(space_embeds), requires_grad=True)
    pi_optimizer = torch.optim.Adam([pi], lr=config.ascent_lr, maximize=True)
    unet_config = pipeline.unet.config
    shape = (1, unet_config.in_channels, unet_config.sample_size, unet_config.sample_size)

    @torch.no_grad()
    def partial_trajectory(prompt_embeds: Tensor, stop: int) -> Tensor:
        latents = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
        both = torch.cat([empty_embeds, prompt_embeds])
        for t in scheduler.timesteps[:stop]:
            uncond, cond = trained(torch.cat([latents] * 2), t.expand(2), both).chunk(2)
            noise_pred = uncond + config.guidance_scale * (cond - uncond)
            latents = scheduler.step(noise_pred, t, latents, return_dict=False)[0]
        return latents

    for loop in range(config.loops):
        uniform = torch.rand(len(pi), generator=generator).clamp(1e-10, 1 - 1e-7)
        gumbel = -torch.log(-torch.log(uniform))
        y = torch.softmax((pi + gumbel) / config.temperature, dim=0)
        hard = torch.zeros_like(y).scatter(0, y.argmax(0, keepdim=True), 1.0)
        adversarial = torch.einsum("k,kld->ld", hard + y - y.detach(), space_embeds)[None]

        stop = int(torch.randint(config.ddim_steps, (1,), generator=generator))
        t = scheduler.timesteps[stop].expand(1)
        z_erased = partial_trajectory(erased_embeds, stop)
        z_adversarial = partial_trajectory(adversarial.detach(), stop)
        with torch.no_grad():
            neutral = frozen(z_erased, t, empty_embeds)
            erased = frozen(z_erased, t, erased_embeds)
            kept = frozen(z_adversarial, t, adversarial.detach())
        target = neutral - config.negative_guidance * (erased - neutral)
        erase_loss = (trained(z_erased, t, erased_embeds) - target).square().mean()
        keep_loss = (trained(z_adversarial, t, adversarial) - kept).square().mean()
        loss = erase_loss + config.keep_weight * keep_loss

        trained_unet.zero_grad(set_to_none=True)
        pi.grad = None
        loss.backward()
        (pi_optimizer if loop % 2 == 0 else optimizer).step()
        if loop % 2:
            on_weights(loop // 2 + 1, {name: p.detach() for name, p in chosen.items()})

    return {name: p.detach().clone() for name, p in chosen.items()}, passes

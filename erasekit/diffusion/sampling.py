"""Drawing images, batched over prompts and starting noises."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from erasekit.diffusion.families import FamilyAdapter
from erasekit.diffusion.loading import LoadedModel


def initial_noise(family: FamilyAdapter, seeds: Sequence[int]) -> Tensor:
    """Starting noises z_T, [N, C, h, w], one per seed.

    Noise i is what plain diffusers draws with `torch.Generator("cpu").manual_seed(seeds[i])`, so
    it does not depend on the batch it is drawn in.
    """
    shape = (1, *family.latents_shape())
    noises = [
        torch.randn(shape, generator=torch.Generator("cpu").manual_seed(int(seed)))
        for seed in seeds
    ]
    return torch.cat(noises).to(family.device, family.dtype)


def guided(noise_uncond: Tensor, noise_cond: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: uncond + scale * (cond - uncond)."""
    return noise_uncond + guidance_scale * (noise_cond - noise_uncond)


@torch.no_grad()
def sample(
    model: LoadedModel,
    prompt_embeds: Tensor,
    seeds: Sequence[int],
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 16,
    on_images: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Images, uint8 [N, H, W, 3], for prompt embeddings [N, L, D] and as many seeds.

    The sampler G: the model's own scheduler, guidance against the empty prompt.

    Args:
        model: the model that draws.
        prompt_embeds: one embedding per image.
        seeds: one starting noise per image.
        num_inference_steps: sampling steps; None takes the model's registered value.
        guidance_scale: 1 or less draws without guidance; None takes the model's registered value.
        batch_size: images drawn at once; results may differ in the last bit between sizes.
        on_images: called with the number of images just drawn.
    """
    steps = num_inference_steps or model.descriptor.num_inference_steps
    scale = model.descriptor.guidance_scale if guidance_scale is None else guidance_scale
    family = model.family
    empty = family.embed_prompts([""])
    images = []
    for start in range(0, len(seeds), batch_size):
        embeds = prompt_embeds[start : start + batch_size]
        noise = initial_noise(family, seeds[start : start + batch_size])
        scheduler = copy.deepcopy(model.pipeline.scheduler)
        scheduler.set_timesteps(steps, device=family.device)
        latents = noise * scheduler.init_noise_sigma
        both = torch.cat([empty.expand_as(embeds), embeds]) if scale > 1 else embeds
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, t)
            inputs = torch.cat([scaled, scaled]) if scale > 1 else scaled
            noise_pred = family.predict_noise(inputs, t.expand(len(inputs)), both)
            if scale > 1:
                uncond, cond = noise_pred.chunk(2)
                noise_pred = guided(uncond, cond, scale)
            latents = scheduler.step(noise_pred, t, latents, return_dict=False)[0]
        images.append(family.decode(latents))
        if on_images:
            on_images(len(embeds))
    return np.concatenate(images)


def generate(
    model: LoadedModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 16,
    on_images: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Images, uint8 [N, H, W, 3]: image i draws `prompts[i]` from the noise of `seeds[i]`.

    See `sample` for the other arguments.

    Raises:
        ConceptError: a prompt is longer than the tokenizer's limit.
        ValueError: prompts and seeds differ in number, or there are none.
    """
    if len(prompts) != len(seeds) or not prompts:
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; give as many of both")
    unique = list(dict.fromkeys(prompts))
    embedded = model.family.embed_prompts(unique)
    index = torch.tensor([unique.index(prompt) for prompt in prompts])
    return sample(
        model,
        embedded[index.to(embedded.device)],
        seeds,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        on_images=on_images,
    )

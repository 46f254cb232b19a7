"""Drawing images, batched over prompts and starting noises."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erasekit.diffusion.guidance import Drawing
from erasekit.errors import ConfigError
from erasekit.models.families import FamilyAdapter
from erasekit.models.loading import LoadedModel
from erasekit.models.pipeline_state import held_still


def initial_noise(family: FamilyAdapter, seeds: Sequence[int]) -> Tensor:
    """Starting noises z_T, [N, C, h, w], one per seed.

    Noise i is what plain diffusers draws with `torch.Generator("cpu").manual_seed(seeds[i])`, so
    it depends neither on the batch it is drawn in nor on the model's precision.
    """
    return _drawn_noise(family, _generators(seeds))


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]


def _drawn_noise(family: FamilyAdapter, generators: Sequence[torch.Generator]) -> Tensor:
    shape = (1, *family.latents_shape())
    noises = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.cat(noises).to(family.device, family.dtype)


def guided(noise_uncond: Tensor, noise_cond: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: uncond + scale * (cond - uncond).

    Of UNet outputs or of noise: the one is the noise of the other, for any prediction type.
    """
    return noise_uncond + guidance_scale * (noise_cond - noise_uncond)


def check_steps(pipeline: Any, steps: int) -> None:
    """Refuse, by `ConfigError`, a number of solver steps that the noise schedule does not allow."""
    most = int(pipeline.scheduler.config.num_train_timesteps)
    if not 1 <= steps <= most:
        raise ConfigError(f"{steps} solver steps are not possible; use 1 to {most}.")


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

    The sampler G: the model's own scheduler, guidance against the empty prompt, with the further
    terms that applied edits install (`erasekit.diffusion.guidance`). A scheduler that
    draws noise on the way draws it from the generator of the image's seed, as plain diffusers does.

    Args:
        seeds: one starting noise per image.
        num_inference_steps: sampling steps; None takes the model's registered value.
        guidance_scale: 1 or less draws without guidance; None takes the model's registered value.
        batch_size: images drawn at once; results may differ in the last bit between sizes.
        on_images: called with the number of images just drawn.

    Raises:
        ConfigError: no steps, or more than the model has timesteps.
    """
    own = model.descriptor
    steps = own.num_inference_steps if num_inference_steps is None else num_inference_steps
    scale = own.guidance_scale if guidance_scale is None else guidance_scale
    check_steps(model.pipeline, steps)
    images = []
    with held_still(model.pipeline):
        for start in range(0, len(seeds), batch_size):
            rows = slice(start, start + batch_size)
            latents = _sampled_latents(model, prompt_embeds[rows], seeds[rows], steps, scale)
            images.append(model.family.decode(latents))
            if on_images:
                on_images(len(latents))
    return np.concatenate(images)


def _sampled_latents(
    model: LoadedModel, prompt_embeds: Tensor, seeds: Sequence[int], steps: int, scale: float
) -> Tensor:
    """Clean latents [B, C, h, w] of one batch."""
    family, generators = model.family, _generators(seeds)
    scheduler = copy.deepcopy(model.pipeline.scheduler)
    scheduler.set_timesteps(steps, device=family.device)
    taken = inspect.signature(scheduler.step).parameters
    plain = {"generator": generators, "eta": 0.0}  # eta as the pipelines give it, also to TCD
    extra = {name: value for name, value in plain.items() if name in taken}
    latents: Tensor = _drawn_noise(family, generators) * scheduler.init_noise_sigma
    embeds, sides = prompt_embeds, 1
    if scale > 1:
        empty = family.unconditional_embeds().expand_as(prompt_embeds)
        embeds, sides = torch.cat([empty, prompt_embeds]), 2
    drawing = Drawing(family)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, t)
        inputs = torch.cat([scaled] * sides)
        output = family.predict_output(inputs, t.expand(len(inputs)), embeds)
        if scale > 1:
            uncond, cond = output.chunk(2)
            cond = drawing.condition(uncond, cond, scaled, t.expand(len(scaled)))
            output = guided(uncond, cond, scale)
        latents = scheduler.step(output, t, latents, return_dict=False, **extra)[0]
    return latents


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
        ConfigError: no steps, or more than the model has timesteps.
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

"""The sampler beside plain diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from erasekit.diffusion.sampling import generate, initial_noise
from erasekit.errors import ConceptError, ConfigError

PROMPTS = ["garbage truck", "a photo of a church", "", "banana"]
SEEDS = [0, 7, 3, 2**40]
SCHEDULERS = [
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
]


def plain_diffusers(model, prompts, seeds, steps, scale) -> np.ndarray:
    images = model.pipeline(
        list(prompts),
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="pil",
    ).images
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5, 7.5])
def test_draws_what_plain_diffusers_draws(tiny_model, scale: float) -> None:
    expected = plain_diffusers(tiny_model, PROMPTS, SEEDS, 5, scale)
    images = generate(
        tiny_model, PROMPTS, SEEDS, num_inference_steps=5, guidance_scale=scale, batch_size=4
    )
    assert images.dtype == np.uint8
    assert images.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: s.__name__)
def test_draws_what_plain_diffusers_draws_with_any_scheduler(tiny_model, scheduler) -> None:
    tiny_model.pipeline.scheduler = scheduler.from_config(tiny_model.pipeline.scheduler.config)
    expected = plain_diffusers(tiny_model, PROMPTS, SEEDS, 6, 4.0)
    drawn = generate(
        tiny_model, PROMPTS, SEEDS, num_inference_steps=6, guidance_scale=4.0, batch_size=4
    )
    np.testing.assert_array_equal(drawn, expected)
    again = generate(
        tiny_model, PROMPTS, SEEDS, num_inference_steps=6, guidance_scale=4.0, batch_size=3
    )
    assert np.abs(again.astype(int) - drawn).max() <= 1, "an image depends on its batch"


def test_noise_is_what_plain_diffusers_draws_from_the_seed(tiny_model) -> None:
    noise = initial_noise(tiny_model.family, SEEDS)
    for row, seed in zip(noise, SEEDS, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        plain = tiny_model.pipeline.prepare_latents(1, 4, 16, 16, torch.float32, "cpu", generator)
        assert torch.equal(row, plain[0])


def test_an_image_depends_on_neither_order_nor_company(tiny_model) -> None:
    together = generate(tiny_model, PROMPTS, SEEDS, num_inference_steps=4)
    backwards = generate(tiny_model, PROMPTS[::-1], SEEDS[::-1], num_inference_steps=4)
    np.testing.assert_allclose(backwards[::-1].astype(int), together, atol=1)
    for prompt, seed, image in zip(PROMPTS, SEEDS, together, strict=True):
        alone = generate(tiny_model, [prompt], [seed], num_inference_steps=4)
        np.testing.assert_allclose(alone[0].astype(int), image, atol=1)


def test_defaults_are_the_model_s_registered_values(tiny_model) -> None:
    descriptor = tiny_model.descriptor
    explicit = generate(
        tiny_model,
        ["church"],
        [1],
        num_inference_steps=descriptor.num_inference_steps,
        guidance_scale=descriptor.guidance_scale,
    )
    np.testing.assert_array_equal(generate(tiny_model, ["church"], [1]), explicit)


def test_passes_are_counted_by_sample(tiny_model) -> None:
    before = tiny_model.passes.snapshot()
    generate(tiny_model, PROMPTS, SEEDS, num_inference_steps=5, guidance_scale=3.0, batch_size=3)
    generate(tiny_model, PROMPTS[:1], SEEDS[:1], num_inference_steps=5, guidance_scale=1.0)
    spent = tiny_model.passes - before
    assert (spent.forward, spent.backward) == (4 * 5 * 2 + 5, 0)
    assert spent.cost == spent.forward


def test_progress_is_told_by_images(tiny_model) -> None:
    told: list[int] = []
    generate(tiny_model, PROMPTS, SEEDS, num_inference_steps=1, batch_size=3, on_images=told.append)
    assert told == [3, 1]


def test_nothing_global_changes(tiny_model) -> None:
    state, scheduler = torch.get_rng_state(), tiny_model.pipeline.scheduler
    config = dict(scheduler.config)
    timesteps = scheduler.timesteps.clone()
    generate(tiny_model, ["church"], [1], num_inference_steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny_model.pipeline.scheduler is scheduler
    assert torch.equal(scheduler.timesteps, timesteps)
    assert dict(scheduler.config) == config


def test_bad_arguments_are_refused(tiny_model) -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 seeds"):
        generate(tiny_model, ["church", "bus"], [0])
    with pytest.raises(ValueError, match="0 prompts"):
        generate(tiny_model, [], [])
    with pytest.raises(ConceptError, match="tokens long"):
        generate(tiny_model, ["church " * 40], [0])
    for steps in (0, -3, 100_000):
        with pytest.raises(ConfigError, match=str(steps)):
            generate(tiny_model, ["church"], [0], num_inference_steps=steps)

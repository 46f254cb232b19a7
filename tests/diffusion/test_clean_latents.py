"""Clean latents of the frozen model and their noising, beside plain diffusers."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDPMScheduler
from scipy.stats import kstest

from erasekit.diffusion.clean_latents import GeneratedLatents
from erasekit.diffusion.scope import FrozenWeights, ParameterScope
from erasekit.diffusion.trajectories import trajectory_seed
from erasekit.errors import ConfigError

PROMPTS = ["church", "a red bus"]


def make(model, count: int = 3, batch_size: int = 32, steps: int = 4) -> GeneratedLatents:
    """Drawn after theta' has moved away from theta, which alone must count."""
    frozen = FrozenWeights(model.unet, ParameterScope("full").select(model.unet))
    generator = torch.Generator().manual_seed(5)
    for parameter in model.unet.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return GeneratedLatents(
        model.family,
        model.family.embed_prompts(PROMPTS),
        count,
        num_inference_steps=steps,
        guidance_scale=3.0,
        seed=11,
        frozen=frozen,
        batch_size=batch_size,
    )


def test_they_are_what_plain_diffusers_draws_with_the_frozen_weights(tiny_model) -> None:
    plain = copy.deepcopy(tiny_model.pipeline)
    plain.set_progress_bar_config(disable=True)
    found = make(tiny_model)
    assert found.prompts.tolist() == [0, 1, 0]
    for n, latents in enumerate(found.latents):
        expected = plain(
            PROMPTS[n % 2],
            num_inference_steps=4,
            guidance_scale=3.0,
            generator=torch.Generator("cpu").manual_seed(trajectory_seed(11, n)),
            output_type="latent",
        ).images[0]
        torch.testing.assert_close(latents, expected, rtol=1e-3, atol=1e-4)


def test_batches_do_not_matter(tiny_model) -> None:
    whole = make(copy.deepcopy(tiny_model)).latents
    torch.testing.assert_close(make(tiny_model, batch_size=2).latents, whole, rtol=1e-4, atol=1e-5)


def test_noise_is_added_as_the_ddpm_scheduler_adds_it(tiny_model) -> None:
    source = make(tiny_model)
    images = torch.arange(40) % 3
    drawn = source.draw(images, torch.Generator().manual_seed(1))
    ddpm = DDPMScheduler.from_config(tiny_model.pipeline.scheduler.config)
    expected = ddpm.add_noise(source.latents[images], drawn.noise, drawn.timesteps)
    torch.testing.assert_close(drawn.latents, expected)


def test_timesteps_are_uniform_and_noise_is_normal(tiny_model) -> None:
    source = make(tiny_model)
    drawn = source.draw(torch.zeros(4000, dtype=torch.int64), torch.Generator().manual_seed(2))
    assert kstest((drawn.timesteps.numpy() + 0.5) / 1000, "uniform").pvalue > 1e-3
    assert kstest(drawn.noise[:200].flatten().numpy(), "norm").pvalue > 1e-3


def test_too_many_solver_steps_are_refused(tiny_model) -> None:
    with pytest.raises(ConfigError, match="1001 solver steps are not possible; use 1 to 1000"):
        make(tiny_model, steps=1001)


def test_given_timesteps_are_taken(tiny_model) -> None:
    source, given = make(tiny_model), torch.tensor([5, 700, 999])
    drawn = source.draw(torch.arange(3), torch.Generator().manual_seed(1), given)
    assert drawn.timesteps.tolist() == given.tolist()
    ddpm = DDPMScheduler.from_config(tiny_model.pipeline.scheduler.config)
    expected = ddpm.add_noise(source.latents, drawn.noise, given)
    torch.testing.assert_close(drawn.latents, expected)

"""Every family draws what plain diffusers draws, with any scheduler a model may come with."""

from __future__ import annotations

import copy
from collections.abc import Callable

import diffusers
import numpy as np
import pytest
import torch

from erasekit.diffusion.sampling import generate
from erasekit.diffusion.scope import FrozenWeights
from erasekit.diffusion.solvers import DDIM, ddim_scheduler
from erasekit.diffusion.trajectories import FrozenTrajectories, trajectory_seed
from erasekit.errors import ModelError
from erasekit.models.loading import LoadedModel, wrap_pipeline

STEPS, GUIDANCE = 4, 4.0
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
PROMPTS = ["a photo of a church", "a photo of a banana"]


def plain(model: LoadedModel, prompt: str, seed: int, **options: object) -> np.ndarray:
    """One picture by the pipeline itself, float [H, W, 3]."""
    options = {"output_type": "np", "guidance_scale": GUIDANCE, **options}
    generator = torch.Generator("cpu").manual_seed(seed)
    result = model.pipeline(prompt, num_inference_steps=STEPS, generator=generator, **options)
    return np.asarray(result.images[0])


def assert_same_pictures(found: np.ndarray, wanted: list[np.ndarray]) -> None:
    """Equal but for the rounding of a value that a batch changed in its last bits."""
    rounded = (np.stack(wanted) * 255).round().astype(int)
    assert found.shape == rounded.shape
    assert np.abs(found.astype(int) - rounded).max() <= 1
    assert np.abs(rounded[0] - rounded[1]).mean() > 5, "the pictures should differ"


def test_pictures_are_those_of_plain_diffusers(family_model: LoadedModel) -> None:
    found = generate(
        family_model, PROMPTS, [3, 4], num_inference_steps=STEPS, guidance_scale=GUIDANCE
    )
    wanted = [plain(family_model, p, s) for p, s in zip(PROMPTS, [3, 4], strict=True)]
    assert_same_pictures(found, wanted)


def test_without_guidance_too(family_model: LoadedModel) -> None:
    found = generate(family_model, PROMPTS, [3, 4], num_inference_steps=STEPS, guidance_scale=1)
    wanted = [
        plain(family_model, p, s, guidance_scale=1.0) for p, s in zip(PROMPTS, [3, 4], strict=True)
    ]
    assert_same_pictures(found, wanted)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("PNDMScheduler", {"skip_prk_steps": True}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("DDIMScheduler", {"timestep_spacing": "trailing", **ZERO_SNR}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", **ZERO_SNR}),
        ("LCMScheduler", {}),
    ],
)
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_models_own_scheduler_draws(
    loaded: Callable[[str], LoadedModel], family: str, scheduler: str, options: dict[str, object]
) -> None:
    model = loaded(family)
    config = {**model.pipeline.scheduler.config, "clip_sample": False}
    model.pipeline.scheduler = getattr(diffusers, scheduler).from_config(config, **options)
    found = generate(model, PROMPTS, [3, 4], num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    wanted = [plain(model, p, s) for p, s in zip(PROMPTS, [3, 4], strict=True)]
    assert_same_pictures(found, wanted)


def schedulers() -> list[str]:
    """Every scheduler of this version of diffusers."""
    names = {*dir(diffusers), *dir(diffusers.schedulers)}
    return sorted(n for n in names if n.endswith("Scheduler") and not n.startswith("Flax"))


@pytest.mark.parametrize("name", schedulers())
def test_every_scheduler_draws_plain_diffusers_pictures_or_is_refused(
    tiny_model: LoadedModel, name: str
) -> None:
    """Where the plain pipeline can't draw with it, erasekit says so before it starts."""
    pipeline = copy.deepcopy(tiny_model.pipeline)
    try:
        config = {**pipeline.scheduler.config, "clip_sample": False}
        pipeline.scheduler = getattr(diffusers, name).from_config(config)
    except (ImportError, TypeError, AttributeError, ValueError) as reason:
        pytest.skip(f"it is not for such a pipeline: {reason}")
    refusal = ""
    try:
        model = wrap_pipeline(pipeline)
    except ModelError as error:
        refusal = str(error)
    if refusal:
        assert name in refusal
        return
    wanted = [plain(model, p, s) for p, s in zip(PROMPTS, [3, 4], strict=True)]
    found = generate(model, PROMPTS, [3, 4], num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    assert np.abs(found - np.stack(wanted) * 255).max() <= 1.5
    alone = generate(model, PROMPTS[:1], [3], num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    assert np.abs(alone - wanted[0] * 255).max() <= 1.5


def test_trajectories_are_those_of_plain_ddim(family_model: LoadedModel) -> None:
    """Their last step lands on the latents that the pipeline with a DDIM scheduler gives."""
    embeds = family_model.family.embed_prompts(PROMPTS[:1])
    source = FrozenTrajectories(
        family_model.family,
        embeds,
        solver=DDIM(family_model.family, STEPS),
        guidance_scale=GUIDANCE,
        per_prompt=1,
        seed=0,
        frozen=FrozenWeights(family_model.unet, {}),
    )
    source.sample_all()
    latents, cond, uncond = (part[0] for part in source._kept[0])
    scheduler = ddim_scheduler(family_model.pipeline, STEPS)
    guided = uncond[-1] + GUIDANCE * (cond[-1] - uncond[-1])
    t = scheduler.timesteps[-1]
    noise_only = diffusers.DDIMScheduler.from_config(scheduler.config, prediction_type="epsilon")
    noise_only.set_timesteps(STEPS)
    last = noise_only.step(guided, t, latents[-1], return_dict=False)[0]

    family_model.pipeline.scheduler = scheduler
    wanted = plain(family_model, PROMPTS[0], trajectory_seed(0, 0), output_type="latent")
    assert np.allclose(last.numpy(), wanted, atol=2e-4)


def test_clipping_is_not_introduced(loaded: Callable[[str], LoadedModel]) -> None:
    """DPM-Solver has no `clip_sample`, and DDIM would clip latents by default."""
    pipeline = loaded("sd1").pipeline
    solver = diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    config = {k: v for k, v in solver.config.items() if k != "clip_sample"}
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config)
    derived = ddim_scheduler(pipeline, STEPS)
    assert derived.config.clip_sample is False
    assert torch.equal(derived.alphas_cumprod, pipeline.scheduler.alphas_cumprod)

"""Would a faster solver make trajectories cheaper? How far z_t are off those of many steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.runs import Bench
from erasekit.diffusion.sampling import guided, initial_noise
from erasekit.diffusion.solvers import ddim_scheduler

CONCEPTS = ("church", "elephant", "apple", "pistol", "guitar", "bus")
MANY = 500
STEPS = (4, 8, 16, 50)
SCALES = (1.0, 3.0)
SPACING = {"timestep_spacing": "trailing"}


def measure(rounds: int) -> list[dict[str, Any]]:
    """Of each solver and number of steps, the mean of ||z_t - z_t*|| / ||z_t*||.

    z_t* is on the way of DDIM in 500 steps from the same noise, at its timestep nearest to t. The
    mean is over concepts, guidance scales and the timesteps but the first, where z_t is the noise
    itself. Timesteps are those of "trailing" spacing, which all solvers place alike; by their own
    default some stop short of others.

    Args:
        rounds: not used; nothing here depends on time.
    """
    bench = Bench.icons()
    reference = {scale: way(bench, _ddim(_pipeline(bench), MANY), scale) for scale in SCALES}
    rows = []
    for name, make in SOLVERS.items():
        for steps in STEPS:
            errors = []
            for scale in SCALES:
                found = way(bench, make(_pipeline(bench), steps), scale)
                for t in sorted(found, reverse=True)[1:]:
                    nearest = min(reference[scale], key=lambda known: abs(known - t))
                    wanted = reference[scale][nearest]
                    apart = (found[t] - wanted).flatten(1).norm(dim=1)
                    errors.append(float((apart / wanted.flatten(1).norm(dim=1)).mean()))
            rows.append({"solver": name, "steps": steps, "error": sum(errors) / len(errors)})
    return rows


def _ddim(pipeline: Any, steps: int) -> Any:
    """DDIM, as trajectories have it."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(ddim_scheduler(pipeline, steps).config, **SPACING)
    scheduler.set_timesteps(steps)
    return scheduler


def _dpm(pipeline: Any, steps: int) -> Any:
    """DPM-Solver++ (2M) of diffusers with the model's own schedule."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, **SPACING)
    scheduler.set_timesteps(steps)
    return scheduler


def _unipc(pipeline: Any, steps: int) -> Any:
    """UniPC (order 2) of diffusers with the model's own schedule."""
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, **SPACING)
    scheduler.set_timesteps(steps)
    return scheduler


SOLVERS: dict[str, Callable[[Any, int], Any]] = {
    "DDIM": _ddim,
    "DPM-Solver++": _dpm,
    "UniPC": _unipc,
}


def _pipeline(bench: Bench) -> Any:
    return bench.model.pipeline


@torch.no_grad()
def way(bench: Bench, scheduler: Any, scale: float) -> dict[int, Tensor]:
    """z_t of all concepts by timestep, [B, C, h, w], with guidance."""
    family = bench.model.family
    embeds = family.embed_prompts(list(CONCEPTS))
    both = torch.cat([family.unconditional_embeds().expand_as(embeds), embeds])
    latents = initial_noise(family, list(range(len(CONCEPTS)))) * scheduler.init_noise_sigma
    found = {}
    for t in scheduler.timesteps:
        found[int(t)] = latents
        output = family.predict_output(torch.cat([latents] * 2), t.expand(len(both)), both)
        noise_pred = guided(*output.chunk(2), scale)
        latents = scheduler.step(noise_pred, t, latents, return_dict=False)[0]
    return found

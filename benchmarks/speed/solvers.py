"""How far z_t of few solver steps are off those of many, by solver and timesteps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.runs import Bench
from erasekit.diffusion.scope import FrozenWeights
from erasekit.diffusion.solvers import SOLVERS, SolverName, Spacing
from erasekit.diffusion.trajectories import FrozenTrajectories

CONCEPTS = ("church", "elephant", "apple", "pistol", "guitar", "bus")
MANY = 200
STEPS = (5, 8, 10, 50)
SPACINGS: tuple[Spacing, ...] = ("model", "trailing")
GUIDANCE = 3.0


def measure(rounds: int) -> list[dict[str, Any]]:
    """Of each solver, spacing and number of steps: how far z_t are off, and what they span.

    `error` is the mean of ||z_t - z_t*|| / ||z_t*|| over concepts and timesteps, and `contrast`
    the ratio of their standard deviations at the last one. z_t* is on the way of DDIM in `MANY`
    trailing steps from the same noise, at its timestep nearest to t. A timestep where z_t* is
    still the noise itself does not count; those where z_t is, and should not be, do.

    Args:
        rounds: not used; nothing here depends on time.
    """
    bench = Bench.icons()
    many = way(bench, "ddim", MANY, "trailing")
    rows = []
    for spacing in SPACINGS:
        for solver in SOLVERS:
            for steps in STEPS:
                errors, contrast = [], 1.0
                for t, found in way(bench, solver, steps, spacing).items():
                    wanted = many[min(many, key=lambda known: abs(known - t))]
                    if wanted is many[max(many)]:
                        continue
                    apart = (found - wanted).flatten(1).norm(dim=1)
                    errors.append(float((apart / wanted.flatten(1).norm(dim=1)).mean()))
                    contrast = float(found.std() / wanted.std())
                rows.append(
                    {
                        "spacing": spacing,
                        "solver": solver,
                        "steps": steps,
                        "error": sum(errors) / len(errors),
                        "contrast": contrast,
                    }
                )
    return rows


def way(bench: Bench, solver: SolverName, steps: int, spacing: Spacing) -> dict[int, Tensor]:
    """z_t of all concepts by timestep, falling, [B, C, h, w]: what training keeps of them."""
    family = bench.model.family
    source = FrozenTrajectories(
        family,
        family.embed_prompts(list(CONCEPTS)),
        solver=SOLVERS[solver](family, steps, spacing),
        guidance_scale=GUIDANCE,
        per_prompt=1,
        seed=0,
        frozen=FrozenWeights(bench.model.unet, {}),
    )
    with torch.no_grad():
        source.sample_all()
    kept = [source._kept[p][0][0] for p in range(len(CONCEPTS))]
    return {
        t: torch.stack([z[s] for z in kept]) for s, t in enumerate(source.solver.timesteps.tolist())
    }

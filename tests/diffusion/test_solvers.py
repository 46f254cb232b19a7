"""Solvers of trajectories, beside diffusers' own on the same timesteps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from erasekit.diffusion.sampling import initial_noise
from erasekit.diffusion.scope import FrozenWeights, ParameterScope
from erasekit.diffusion.solvers import SOLVERS, ddim_scheduler
from erasekit.diffusion.trajectories import (
    CurrentTrajectories,
    FrozenTrajectories,
    trajectory_seed,
)
from erasekit.errors import ConfigError

PROMPTS = ["church", "a red bus"]
STEPS, SEED = 6, 11
SECOND = "dpmsolver++"


@pytest.fixture
def frozen(tiny_model) -> FrozenWeights:
    return FrozenWeights(tiny_model.unet, ParameterScope("xattn").select(tiny_model.unet))


def source(
    model, frozen, *, scale: float, steps: int = STEPS, solver: str = SECOND, **options
) -> FrozenTrajectories:
    return FrozenTrajectories(
        model.family,
        model.family.embed_prompts(PROMPTS),
        solver=SOLVERS[solver](model.family, steps),
        guidance_scale=scale,
        per_prompt=2,
        seed=SEED,
        frozen=frozen,
        **options,
    )


@torch.no_grad()
def by_diffusers(model, prompt: str, number: int, scale: float, steps: int = STEPS):
    """z_t before each solver step by diffusers' DPM-Solver++(2M), at the timesteps of DDIM."""
    timesteps = ddim_scheduler(model.pipeline, steps).timesteps
    config = {**model.pipeline.scheduler.config, "algorithm_type": SECOND, "solver_order": 2}
    scheduler = DPMSolverMultistepScheduler.from_config(config)
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    embeds = model.family.embed_prompts(["", prompt])
    latents = initial_noise(model.family, [trajectory_seed(SEED, number)])
    seen = []
    for t in scheduler.timesteps:
        seen.append(latents[0])
        output = model.family.predict_output(torch.cat([latents] * 2), t.expand(2), embeds)
        uncond, cond = output.chunk(2)
        output = uncond + scale * (cond - uncond)
        latents = scheduler.step(output, t, latents, return_dict=False)[0]
    return seen


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("scale", "with_uncond"), [(1.0, False), (1.0, True), (3.0, True)])
def test_a_second_order_trajectory_is_diffusers_own(
    tiny_model, frozen, scale: float, with_uncond: bool, mapped: bool
) -> None:
    """Sampled on bit by bit, so that each solver step has the one before from what is kept."""
    kept = source(tiny_model, frozen, scale=scale, with_uncond=with_uncond, mapped=mapped)
    for steps in (1, 2, 4, STEPS):
        kept.sample([(p, n, steps) for p in range(2) for n in range(2)])
    for p, prompt in enumerate(PROMPTS):
        for n in range(2):
            expected = by_diffusers(tiny_model, prompt, n, scale)
            for s in range(STEPS):
                torch.testing.assert_close(
                    kept._kept[p][0][n, s], expected[s], rtol=1e-3, atol=1e-4
                )


def test_its_passes_are_those_of_ddim(tiny_model, frozen) -> None:
    spent = []
    for solver in SOLVERS:
        before = tiny_model.passes.snapshot()
        source(tiny_model, frozen, scale=3.0, solver=solver).sample_all()
        spent.append((tiny_model.passes - before).forward)
    assert spent == [2 * 2 * STEPS * 2] * len(SOLVERS)


@torch.no_grad()
def way(model, name: str, steps: int, first: int) -> dict[int, torch.Tensor]:
    """z_t by timestep, from the same noise at timestep `first`, without guidance."""
    solver, embeds = SOLVERS[name](model.family, steps), model.family.embed_prompts(PROMPTS[:1])
    latents, before, seen = initial_noise(model.family, [SEED]), None, {}
    begin = solver.timesteps.tolist().index(first)
    for s in range(begin, steps):
        t = solver.timesteps[s].expand(1)
        seen[int(t)] = latents
        if s + 1 < steps:
            noise_pred = model.family.predict_noise(latents, t, embeds)
            following = solver.step(s, latents, noise_pred, before if s > begin else None)
            before, latents = (latents, noise_pred), following
    return seen


def test_it_comes_nearer_in_as_many_steps(tiny_model) -> None:
    """Off a way of 40 times as many steps, which passes through the same timesteps."""
    first = int(SOLVERS["ddim"](tiny_model.family, 5).timesteps[0])
    fine = way(tiny_model, "ddim", 200, first)
    errors = {}
    for name in SOLVERS:
        coarse = way(tiny_model, name, 5, first)
        assert coarse.keys() <= fine.keys()
        errors[name] = sum(float((z - fine[t]).norm()) for t, z in coarse.items())
    assert errors[SECOND] < 0.7 * errors["ddim"]


def test_the_current_model_s_trajectories_take_the_same_solver(tiny_model, frozen) -> None:
    """With weights that have not moved they are the frozen model's, from a noise of their own."""
    current = CurrentTrajectories(
        tiny_model.family,
        tiny_model.family.embed_prompts(PROMPTS),
        solver=SOLVERS[SECOND](tiny_model.family, STEPS),
        guidance_scale=3.0,
        frozen=frozen,
    )
    solver, embeds = current.solver, current.prompt_embeds
    empty = tiny_model.family.unconditional_embeds()
    stops = set()
    for seed in range(12):
        batch = current.draw(torch.tensor([1]), torch.Generator().manual_seed(seed))
        stop = solver.timesteps.tolist().index(int(batch.timesteps))
        stops.add(stop)
        generator = torch.Generator().manual_seed(seed)
        torch.randint(STEPS, (1,), generator=generator)  # the timestep, which comes first
        latents = torch.randn(1, 4, 8, 8, generator=generator)
        before = None
        with torch.no_grad():
            for s in range(stop):
                t = solver.timesteps[s].expand(1)
                uncond = tiny_model.family.predict_noise(latents, t, empty)
                cond = tiny_model.family.predict_noise(latents, t, embeds[1:])
                noise_pred = uncond + 3.0 * (cond - uncond)
                following = solver.step(s, latents, noise_pred, before)
                before, latents = (latents, noise_pred), following
        torch.testing.assert_close(batch.latents, latents, rtol=1e-3, atol=1e-4)
    assert max(stops) > 2


def test_the_first_step_is_ddim_s(tiny_model) -> None:
    first, second = (SOLVERS[name](tiny_model.family, STEPS) for name in ("ddim", SECOND))
    latents, output = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for s in range(STEPS - 1):
        torch.testing.assert_close(
            first.step(s, latents, output, None),
            second.step(s, latents, output, None),
            rtol=1e-4,
            atol=1e-5,
        )


def test_log_snr_rises_along_a_trajectory(tiny_model) -> None:
    log_snr = SOLVERS[SECOND](tiny_model.family, STEPS).log_snr
    assert all(a < b for a, b in pairwise(log_snr))


def test_what_a_solver_looks_back_at_must_be_kept(tiny_model, frozen) -> None:
    with pytest.raises(ValueError, match="without the prompt"):
        source(tiny_model, frozen, scale=3.0, with_uncond=False)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_steps_that_the_schedule_does_not_allow(tiny_model, name: str) -> None:
    with pytest.raises(ConfigError, match="5000"):
        SOLVERS[name](tiny_model.family, 5000)


def test_trailing_timesteps_begin_at_the_last_one(tiny_model) -> None:
    for solver in SOLVERS.values():
        own, trailing = (solver(tiny_model.family, 5, spacing) for spacing in ("model", "trailing"))
        assert own.timesteps.tolist() == [801, 601, 401, 201, 1]
        assert trailing.timesteps.tolist() == [999, 799, 599, 399, 199]
        assert own.bins.tolist() == trailing.bins.tolist() == [1000, 800, 600, 400, 200, 0]

"""What methods share that train on latents z_t sampled from prompts, whatever their objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from erasekit.config import Settings
from erasekit.diffusion.solvers import SOLVERS, Solver, SolverName, Spacing
from erasekit.diffusion.trajectories import (
    CurrentTrajectories,
    FrozenTrajectories,
    LatentSource,
    trajectory_bytes,
)
from erasekit.errors import EditError
from erasekit.methods.base import ErasureContext, ErasureMethod, MemoryUse, rows_per_step


class SampledConfig(Settings):
    """How many rows a step has, where their z_t come from, and what the loss is measured on."""

    batch_size: int = Field(
        8, ge=0, description="rows of the erase term per step; 0: one for each erased concept"
    )
    loss_space: Literal["epsilon", "z0"] = Field(
        "epsilon",
        description="losses on predicted noise, or on predicted clean latents: weighted by "
        "(1 - abar) / abar of z_t, so that noisy timesteps count most, as published",
    )
    latents_from: Literal["frozen", "current"] = Field(
        "frozen",
        description="z_t from kept trajectories of the frozen model, or sampled anew each step "
        "from the model being trained, as published",
    )
    trajectory_steps: int = Field(25, gt=0, description="solver steps of a trajectory")
    trajectory_solver: SolverName = Field(
        "ddim",
        description="solver of the trajectories; dpmsolver++ is of second order, and comes as "
        "near in fewer steps",
    )
    trajectories: int = Field(
        8, gt=0, description="trajectories kept of the erased concepts in all, at least one each"
    )
    trajectory_spacing: Spacing = Field(
        "model",
        description="timesteps of the solver: the model's own, or trailing, which begin at the "
        "last one however few they are",
    )
    timesteps: Literal["solver", "bin"] = Field(
        "solver",
        description="t of a row: the solver's timestep that its z_t is at, or drawn between it "
        "and the next, as published, at one frozen pass more where z_t are kept",
    )
    trajectory_guidance: float = Field(3.0, ge=0, description="guidance while sampling z_t")
    trajectory_refresh: int = Field(
        0,
        ge=0,
        description="outer steps after which kept trajectories give way to ones from other "
        "starting noises; 0: never",
    )
    trajectory_memory: float = Field(
        4.0,
        ge=0,
        description="GiB of trajectories kept where the model is; more go to a temporary file",
    )


class SampledErasure(ErasureMethod):
    """An erasure method whose rows are z_t of prompts; subclasses say what is learnt there.

    A subclass calls `super().prepare(context)` first, then makes its sources.
    """

    Config = SampledConfig
    config: SampledConfig

    def expected_passes(self, context: ErasureContext, steps: int) -> float:
        """Rows of the erase term, forward and backward, and their trajectories."""
        erased = len(context.erasure.erased)
        rows = rows_per_step(self.config.batch_size, erased)
        frozen = rows if context.erasure.neutral else 0
        return steps * (3.0 * rows + frozen) + self.erased_passes(erased, rows, steps)

    def expected_memory(self, context: ErasureContext) -> MemoryUse:
        erased = len(context.erasure.erased)
        rows = rows_per_step(self.config.batch_size, erased)
        return MemoryUse(rows, self.kept_bytes(context, self._trajectories(erased), True))

    def _trajectories(self, erased: int) -> int:
        """Trajectories kept of the erased concepts, as many of each."""
        return erased * -(-self.config.trajectories // erased)

    def erased_passes(self, erased: int, rows: int, steps: int) -> float:
        """Passes that sampling z_t of the erased concepts takes in all, always with guidance."""
        if self.config.latents_from == "current":
            return self.drawn_passes(0, rows, steps) + steps * rows  # eps(z_t, "") as well
        anew = 2.0 * steps * rows if self.config.timesteps == "bin" else 0.0
        whole = self._trajectories(erased) * self.config.trajectory_steps
        return anew + self._rounds(steps) * 2.0 * whole

    def drawn_passes(self, trajectories: int, draws: int, steps: int, guidance: float = 3) -> float:
        """Passes that sampling takes in all, where trajectories go as far as they are drawn.

        Args:
            trajectories: how many there are.
            draws: rows drawn in a step.
            steps: outer steps.
            guidance: of them; 1 samples without the empty prompt.
        """
        solver_steps = self.config.trajectory_steps
        if self.config.latents_from == "current":  # half a trajectory and the frozen prediction
            return float(steps * draws * solver_steps)
        rounds, sides = self._rounds(steps), 1 if guidance == 1 else 2
        sampled = rounds * sides * steps_drawn(draws * steps / rounds, trajectories, solver_steps)
        return sampled + (steps * draws if self.config.timesteps == "bin" else 0)

    def _rounds(self, steps: int) -> int:
        """How often trajectories give way to others, the first time included."""
        return -(-steps // (self.config.trajectory_refresh or steps))

    def kept_bytes(self, context: ErasureContext, trajectories: int, with_uncond: bool) -> int:
        """Bytes of kept trajectories, at most what there is room for in memory."""
        if self.config.latents_from == "current":
            return 0
        steps, room = self.config.trajectory_steps, int(self.config.trajectory_memory * 2**30)
        return min(trajectory_bytes(context.family, trajectories, steps, with_uncond), room)

    def _solver(self) -> Solver:
        config = self.config
        solver = SOLVERS[config.trajectory_solver]
        return solver(self.family, config.trajectory_steps, config.trajectory_spacing)

    def prepare(self, context: ErasureContext) -> None:
        self.context, self.family = context, context.family
        alphas = self.family.alphas_cumprod.clamp_min(1e-8)
        self._z0_weights = (1 - alphas) / alphas
        if self.config.timesteps == "bin":  # z_t is at the solver's timestep, whatever t is told
            solver = self._solver()
            weights, sizes = self._z0_weights[solver.timesteps], -solver.bins.diff()
            self._z0_weights = weights.flip(0).repeat_interleave(sizes.flip(0))
        self._room = self.config.trajectory_memory * 2**30
        self._sources: list[LatentSource] = []

    def concept_source(self, prompt_embeds: Tensor) -> LatentSource:
        """z_t of one prompt per erased concept, [E, L, D], with all trajectories sampled."""
        count = len(prompt_embeds)
        each = -(-self.config.trajectories // count)
        source = self.latent_source(prompt_embeds, each, whole=True)
        if isinstance(source, FrozenTrajectories):
            self.context.on_status(f"sampling {each * count} trajectories of the erased concepts")
            source.sample_all()
        return source

    def latent_source(
        self,
        prompt_embeds: Tensor,
        per_prompt: int,
        guidance_scale: float | None = None,
        with_uncond: bool = True,
        whole: bool = False,
    ) -> LatentSource:
        """Where z_t of the prompts come from, as `latents_from` says.

        Trajectories are sampled as far as they are drawn.

        Args:
            prompt_embeds: [P, L, D].
            per_prompt: trajectories kept of each.
            guidance_scale: None takes `trajectory_guidance`.
            with_uncond: whether rows need the prediction without the prompt, too; without it,
                and at a guidance of 1, kept trajectories cost half as many passes.
            whole: all trajectories are sampled to their ends at once.
        """
        solver = self._solver()
        scale = self.config.trajectory_guidance if guidance_scale is None else guidance_scale
        shared: dict[str, Any] = {
            "solver": solver,
            "guidance_scale": scale,
            "frozen": self.context.frozen,
            "within_bins": self.config.timesteps == "bin",
        }
        if self.config.latents_from == "current":
            shared["with_uncond"] = with_uncond
            return CurrentTrajectories(self.family, prompt_embeds, **shared)
        with_uncond |= solver.looks_back and scale != 1  # the step before, guided
        count = per_prompt * len(prompt_embeds)
        needed = trajectory_bytes(self.family, count, self.config.trajectory_steps, with_uncond)
        mapped = needed > self._room
        self._room -= 0 if mapped else needed
        source = FrozenTrajectories(
            self.family,
            prompt_embeds,
            **shared,
            per_prompt=per_prompt,
            seed=self.context.seed,
            mapped=mapped,
            with_uncond=with_uncond,
            whole=whole,
        )
        self._sources.append(source)
        return source

    def latents_generator(self, step: int, branch: torch.Generator) -> torch.Generator:
        """What draws z_t of one branch of a step.

        Of the model in training, z_t of both branches are at one timestep and from one starting
        noise, as published; kept ones are drawn by each branch for itself.
        """
        current = self.config.latents_from == "current"
        return self.context.generator(step, "latents") if current else branch

    def begin_step(self, step: int) -> None:
        """Other starting noises, where `trajectory_refresh` says so."""
        if self.config.trajectory_refresh:
            for source in self._sources:
                source.renew(step // self.config.trajectory_refresh)

    def state_dict(self) -> dict[str, Tensor]:
        """What was sampled, in order; a subclass with more to keep adds to it."""
        return {f"sampled.{i}": source.sampled() for i, source in enumerate(self._sources)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Sample the same again.

        Raises:
            EditError: the state does not say what was sampled.
        """
        for i, source in enumerate(self._sources):
            if (sampled := state.get(f"sampled.{i}")) is None:
                raise EditError(
                    "The checkpoint does not say which trajectories were sampled; it is of "
                    "another version of erasekit, or of a method whose state_dict leaves out what "
                    "SampledErasure keeps. Start the run anew."
                )
            source.sample_again(sampled)

    def rows(self, step: int, generator: torch.Generator) -> Tensor:
        """Which erased concept each row of a step is of, [B], int64: in turn, then shuffled."""
        count = len(self.context.erasure.erased)
        rows = rows_per_step(self.config.batch_size, count)
        turns = (torch.arange(rows) + step * rows) % count
        return turns[torch.randperm(rows, generator=generator)]

    @torch.no_grad()
    def frozen_noise(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """eps_theta of the frozen model: one more pass."""
        with self.context.frozen.swapped():
            return self.family.predict_noise(latents, timesteps, prompt_embeds)

    def mse(self, noise_pred: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """Mean squared error over elements, in the configured loss space.

        In "z0" each row is weighted by (1 - abar_t) / abar_t, which makes it the error of the
        predicted clean latents.

        Args:
            noise_pred, target: [B, C, h, w].
            timesteps: [B].
        """
        errors = (noise_pred - target).square().flatten(1).mean(dim=1)
        if self.config.loss_space == "z0":
            errors = errors * self._z0_weights[timesteps]
        return errors.mean()


def steps_drawn(draws: float, trajectories: int, solver_steps: int) -> float:
    """Solver steps that are sampled on average, where each draw is uniform over all there are.

    A trajectory is sampled as far as it is drawn: beyond step j, unless all draws miss the steps
    from j on.
    """
    if not trajectories:
        return 0.0
    missed = (1 - (1 - j / solver_steps) / trajectories for j in range(solver_steps))
    return float(trajectories * sum(1 - miss**draws for miss in missed))

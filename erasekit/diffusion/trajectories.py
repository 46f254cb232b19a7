"""Where z_t comes from: kept trajectories of the frozen model, or new ones of the current.

A trajectory of the *frozen* model does not depend on what is trained. Sampled once and kept,
with the two noise predictions that guidance computed anyway, it feeds training steps that need no
frozen pass at all.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import torch
from torch import Tensor

from erasekit.diffusion.sampling import guided, initial_noise
from erasekit.diffusion.scope import FrozenWeights
from erasekit.diffusion.solvers import Solver
from erasekit.files import writing
from erasekit.models.families import FamilyAdapter


@dataclass(frozen=True)
class LatentBatch:
    """Latents on the way from noise to image, with what the frozen model predicts there.

    Attributes:
        latents: z_t, [B, C, h, w].
        timesteps: t, [B], int64.
        noise_pred: frozen eps(z_t, t, c) for each row's own prompt, [B, C, h, w].
        noise_pred_uncond: frozen eps(z_t, t, ""), [B, C, h, w]; None where the source was made
            without it.
    """

    latents: Tensor
    timesteps: Tensor
    noise_pred: Tensor
    noise_pred_uncond: Tensor | None

    def unconditional_noise_pred(self) -> Tensor:
        """`noise_pred_uncond` of a source that has it; `ValueError` of another."""
        if self.noise_pred_uncond is None:
            raise ValueError("The latents were sampled without the unconditional prediction.")
        return self.noise_pred_uncond


@dataclass(eq=False, repr=False)
class LatentSource(ABC):
    """Gives z_t for the prompts of a list that it was made for.

    Attributes:
        family: the adapter.
        prompt_embeds: the prompts, [P, L, D].
        solver: of the trajectories; its timesteps, S, are what t is drawn from.
        guidance_scale: guidance while sampling.
        frozen: the original weights, swapped in for what the frozen model predicts.
        with_uncond: whether rows need the prediction without the prompt.
        within_bins: t is drawn from the bin of the solver's timestep at which z_t is
            (`Solver.bins`), as published, and so the frozen predictions are passes of their own;
            else t is that timestep.
    """

    family: FamilyAdapter
    prompt_embeds: Tensor
    _: KW_ONLY
    solver: Solver
    guidance_scale: float
    frozen: FrozenWeights
    with_uncond: bool = True
    within_bins: bool = False

    @property
    def steps(self) -> int:
        return len(self.solver.timesteps)

    @abstractmethod
    def draw(
        self, indices: Tensor, generator: torch.Generator, shared_timestep: bool = False
    ) -> LatentBatch:
        """One z_t per row.

        Args:
            indices: which prompt each row is of, [B], int64.
            generator: draws trajectory and timestep.
            shared_timestep: all rows at one timestep and one starting noise, so that rows
                differ by their prompt alone.
        """

    def timesteps_at(self, step: Tensor, generator: torch.Generator) -> Tensor:
        """t of rows at these solver steps [B], int64: the solver's, or drawn from its bin."""
        solver, step = self.solver, step.to(self.solver.timesteps.device)
        if not self.within_bins:
            return solver.timesteps[step]
        low, above = solver.bins[step + 1], solver.bins[step]
        share = torch.rand(step.shape, generator=generator).to(low.device)
        return low + (share * (above - low)).long()

    @torch.no_grad()
    def predicted(self, latents: Tensor, timesteps: Tensor, indices: Tensor) -> LatentBatch:
        """The rows with what the frozen model predicts there, by one pass."""
        embeds = self.prompt_embeds[indices.to(self.prompt_embeds.device)]
        if self.with_uncond:
            embeds = torch.cat([self.family.unconditional_embeds().expand_as(embeds), embeds])
        sides = len(embeds) // len(latents)
        with self.frozen.swapped():
            *uncond, cond = self.family.predict_noise(
                latents.repeat(sides, 1, 1, 1), timesteps.repeat(sides), embeds
            ).chunk(sides)
        return LatentBatch(latents, timesteps, cond, uncond[0] if uncond else None)

    def sampled(self) -> Tensor:
        """What was sampled, in order: rows of batch, prompt, number of the noise, solver steps.

        Batches matter to the last bit alone, but a resumed run must sample what was there before
        in the same ones. [M, 4], int64; a source that keeps nothing has no rows.
        """
        return torch.zeros(0, 4, dtype=torch.int64)

    def sample_again(self, sampled: Tensor) -> None:
        """Sample what `sampled` says that another source has sampled."""

    def renew(self, round_number: int) -> None:
        """From now on from the starting noises of this round; nothing happens within one."""


@dataclass(eq=False, repr=False, kw_only=True)
class FrozenTrajectories(LatentSource):
    """Trajectories of the frozen model, sampled as far as they are drawn, and kept.

    A row at solver step s needs the s steps before it, and its trajectory goes on from there when
    a later one is drawn: what is never drawn is never sampled. Where `with_uncond` is off and
    `guidance_scale` is 1, a solver step is one pass and not two. A solver that looks back reads the
    step before from what is kept, so where it is guided, `with_uncond` must be true.

    Memory: 3 tensors of [N, S, C, h, w] per prompt that was drawn, 2 without `with_uncond`;
    `trajectory_bytes` of all.

    Attributes:
        per_prompt: trajectories per prompt N; prompts share their N starting noises.
        seed: decides the starting noises, so a trajectory does not depend on which others are
            sampled.
        batch_size: trajectories sampled together; the runner bounds how many of their rows are
            in the UNet at once.
        whole: all trajectories are sampled to their ends, in full batches, when one is first
            drawn; for few that are drawn often.
        mapped: keep them in a temporary file that is mapped into memory, not on the device.

    Raises:
        ValueError: what `solver` would look back at is not kept.
        OutputError: `mapped`, and the folder for temporary files (TMPDIR) has no space.
    """

    per_prompt: int
    seed: int
    batch_size: int = 32
    whole: bool = False
    mapped: bool = False

    def __post_init__(self) -> None:
        both = self.with_uncond or self.guidance_scale != 1
        if self.solver.looks_back and both and not self.with_uncond:
            name = type(self.solver).__name__
            raise ValueError(f"{name} with guidance needs the predictions without the prompt.")
        self.empty_embeds = self.family.unconditional_embeds() if both else None
        self.round = 0
        self._kept: dict[int, Tensor] = {}
        """z_t and the predictions of each prompt, [3 or 2, N, S, C, h, w]."""
        self._reached = torch.zeros(len(self.prompt_embeds), self.per_prompt, dtype=torch.int64)
        self._sampled: list[tuple[int, int, int, int]] = []
        self._file = self._mapped_file() if self.mapped else None

    def draw(
        self, indices: Tensor, generator: torch.Generator, shared_timestep: bool = False
    ) -> LatentBatch:
        rows = len(indices)
        size = 1 if shared_timestep else rows
        which = torch.randint(self.per_prompt, (size,), generator=generator).expand(rows)
        step = torch.randint(self.steps, (size,), generator=generator)
        timesteps = self.timesteps_at(step, generator).to(self.family.device).expand(rows)
        step = step.expand(rows)
        drawn = list(zip(indices.tolist(), which.tolist(), step.tolist(), strict=True))
        if self.whole:
            self.sample_all()
        else:
            self.sample([(p, n, s + 1) for p, n, s in drawn])
        latents, cond, *uncond = self._rows(drawn)
        if self.within_bins:
            return self.predicted(latents, timesteps, indices)
        return LatentBatch(latents, timesteps, cond, uncond[0] if uncond else None)

    def sample_all(self) -> None:
        """Sample all trajectories to their ends."""
        prompts = range(len(self.prompt_embeds))
        self.sample([(p, n, self.steps) for p in prompts for n in range(self.per_prompt)])

    @torch.no_grad()
    def sample(self, wanted: Sequence[tuple[int, int, int]]) -> None:
        """Go on with trajectories (prompt, number, solver steps) that are not so far yet."""
        goals: dict[tuple[int, int], int] = {}
        for p, n, steps in wanted:
            if steps > self._reached[p, n]:
                goals[p, n] = max(steps, goals.get((p, n), 0))
        if not goals:
            return
        number = self._sampled[-1][0] + 1 if self._sampled else 0
        jobs = [(p, n, steps) for (p, n), steps in sorted(goals.items())]
        first = self.round * self.per_prompt
        self._sampled += [(number, p, first + n, steps) for p, n, steps in jobs]
        with self.frozen.swapped():
            for start in range(0, len(jobs), self.batch_size):
                self._go_on(jobs[start : start + self.batch_size])

    def sampled(self) -> Tensor:
        return torch.tensor(self._sampled, dtype=torch.int64).reshape(-1, 4)

    def sample_again(self, sampled: Tensor) -> None:
        for number in sorted(set(sampled[:, 0].tolist())):
            batch = sampled[sampled[:, 0] == number, 1:].tolist()
            self.renew(batch[0][1] // self.per_prompt)
            self.sample([(p, n % self.per_prompt, steps) for p, n, steps in batch])

    def renew(self, round_number: int) -> None:
        if round_number != self.round:
            self.round = round_number
            self._kept.clear()
            self._reached.zero_()
            self._sampled.clear()

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of what is kept of one prompt."""
        return (2 + self.with_uncond, self.per_prompt, self.steps, *self.family.latents_shape())

    def _mapped_file(self) -> Tensor:
        """Room for all prompts in a file that goes with this object, [P, 3 or 2, N, S, C, h, w]."""
        prompts = len(self.prompt_embeds)
        size = trajectory_bytes(
            self.family, prompts * self.per_prompt, self.steps, self.with_uncond
        )
        folder = tempfile.mkdtemp(prefix="erasekit-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "trajectories"
        with writing(path), path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a crash later
                os.posix_fallocate(file.fileno(), 0, size)
        shape, dtype = (prompts, *self._shape), self.family.dtype
        kept = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype)
        return kept.view(shape)

    def _room(self, p: int) -> Tensor:
        """Where z_t and the predictions of prompt `p` are kept."""
        if p not in self._kept:
            if self._file is not None:
                self._kept[p] = self._file[p]
            else:
                dtype, device = self.family.dtype, self.family.device
                self._kept[p] = torch.empty(self._shape, dtype=dtype, device=device)
        return self._kept[p]

    def _rows(self, places: Sequence[tuple[int, int, int]]) -> Tensor:
        """What is kept of rows (prompt, number, solver step), [3 or 2, B, C, h, w]."""
        kept = torch.stack([self._kept[p][:, n, s] for p, n, s in places], dim=1)
        return kept.to(self.family.device)

    def _go_on(self, jobs: Sequence[tuple[int, int, int]]) -> None:
        """Solver steps of trajectories (prompt, number, steps), those at the same one together."""
        begun = [int(self._reached[p, n]) for p, n, _ in jobs]
        for s in range(min(begun), max(steps for *_, steps in jobs)):
            rows = [(p, n) for (p, n, steps), b in zip(jobs, begun, strict=True) if b <= s < steps]
            if not rows:
                continue
            latents = self._latents(rows, s)
            embeds, sides = self.prompt_embeds[[p for p, _ in rows]], 1
            if self.empty_embeds is not None:
                embeds, sides = torch.cat([self.empty_embeds.expand_as(embeds), embeds]), 2
            inputs = torch.cat([latents] * sides)
            timesteps = self.solver.timesteps[s].expand(len(inputs))
            output = self.family.predict_output(inputs, timesteps, embeds)
            noise_pred = self.family.to_noise(output, inputs, timesteps).chunk(sides)
            kept = [latents, noise_pred[-1], noise_pred[0]][: 2 + self.with_uncond]
            if s + 1 < self.steps:
                if sides == 2:
                    uncond, cond = output.chunk(2)
                    output = guided(uncond, cond, self.guidance_scale)
                kept.append(self.solver.step(s, latents, output, self._before(rows, s)))
            if self._file is not None:
                kept = [part.cpu() for part in kept]
            for row, (p, n) in enumerate(rows):
                room = self._room(p)
                for part in range(len(room)):
                    room[part, n, s] = kept[part][row]
                if s + 1 < self.steps:
                    room[0, n, s + 1] = kept[-1][row]
                self._reached[p, n] = s + 1

    def _latents(self, rows: Sequence[tuple[int, int]], s: int) -> Tensor:
        """z_t before solver step `s`, of trajectories that have come so far, [B, C, h, w]."""
        if s:
            return torch.stack([self._kept[p][0, n, s] for p, n in rows]).to(self.family.device)
        first = self.round * self.per_prompt
        seeds = [trajectory_seed(self.seed, first + n) for _, n in rows]
        noise: Tensor = initial_noise(self.family, seeds) * self.solver.scheduler.init_noise_sigma
        return noise

    def _before(self, rows: Sequence[tuple[int, int]], s: int) -> tuple[Tensor, Tensor] | None:
        """Latents and guided prediction one solver step before `s`, each [B, C, h, w]."""
        if s == 0 or not self.solver.looks_back:
            return None
        latents, cond, *uncond = self._rows([(p, n, s - 1) for p, n in rows])
        return latents, guided(uncond[0], cond, self.guidance_scale) if uncond else cond


class CurrentTrajectories(LatentSource):
    """Partial trajectories of the model as it is being trained, as published.

    Every draw samples anew from noise down to one timestep that all rows share, then asks the
    frozen model for its predictions there. Draws from generators in the same state have the same
    timestep, and the same starting noise row by row.
    """

    @torch.no_grad()
    def draw(
        self, indices: Tensor, generator: torch.Generator, shared_timestep: bool = False
    ) -> LatentBatch:
        rows, solver = len(indices), self.solver
        embeds = self.prompt_embeds[indices.to(self.prompt_embeds.device)]
        stop = torch.randint(self.steps, (1,), generator=generator)
        timesteps = self.timesteps_at(stop, generator).expand(rows)
        shape = self.family.latents_shape()
        noise = [torch.randn(shape, generator=generator) for _ in range(rows)]
        if shared_timestep:
            noise = noise[:1] * rows
        latents = torch.stack(noise).to(embeds) * solver.scheduler.init_noise_sigma
        latents = solver.solve(latents, embeds, self.guidance_scale, int(stop))
        return self.predicted(latents, timesteps, indices)


def trajectory_bytes(
    family: FamilyAdapter, count: int, num_inference_steps: int, with_uncond: bool = True
) -> int:
    """Bytes that `count` kept trajectories take: three latents a solver step each, or two."""
    latent = math.prod(family.latents_shape()) * family.dtype.itemsize
    return (2 + with_uncond) * count * num_inference_steps * latent


def trajectory_seed(seed: int, number: int) -> int:
    """Seed of starting noise `number`; far from the small seeds that images are drawn with."""
    digest = hashlib.sha256(f"trajectory|{seed}|{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")

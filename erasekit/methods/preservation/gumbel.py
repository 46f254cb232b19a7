"""The adversarial concept as a distribution over R, searched by gradient ascent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from erasekit.methods.base import ErasureContext
from erasekit.methods.gradient import ErasedBatch, GradientErasure, KeepBatch
from erasekit.methods.preservation.space import SpaceConfig, SpacePreservation

REACH = 10.0
"""How far Adam moves pi at most: by its rate an ascent, as in the 1,000 published ones at 1e-2."""
COLDEST = 1e-3
"""T does not fall below this: the softmax's gradient would be nothing or infinite."""


class GumbelConfig(SpaceConfig):
    """Hyperparameters of `gumbel`."""

    temperature: float = Field(2.0, gt=0, description="T of the Gumbel softmax")
    temperature_decay: float = Field(
        1.0, gt=0, le=1, description="what T is multiplied by after each outer step; 1 keeps it"
    )
    hard: bool = Field(
        True, description="one word per row, by straight-through; off: a mixture of all words"
    )
    ascent_lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of pi (Adam); none: 10 by the ascents of the run, so that pi "
        "moves as far as in the 1,000 published ones at 1e-2",
    )
    shared_ascent: bool = Field(
        True,
        description="move pi once per outer step by the gradient that the step's own backward pass "
        "gives; off: by `ascent_steps` passes of its own, as published",
    )
    ascent_steps: int = Field(
        1, ge=0, description="ascent steps on pi per outer step, where they have their own passes"
    )
    exact_gradient: bool = Field(
        False, description="let pi's gradient flow through the frozen prediction too"
    )


class GumbelPreservation(SpacePreservation):
    """c_a = y R with y = softmax((pi + Gumbel noise) / T), made one-hot by straight-through.

    pi are unconstrained logits, one vector per erased concept, equal at the start, moved by
    gradient ascent on L2 (Bui et al., NeurIPS 2024, section 4, eq. 6-8), but in the first step,
    where theta' is theta and L2 is rounding. Every row of a batch draws its own y. A hard row is
    kept on its word's own z_t, where the frozen prediction is known; a soft row on the z_t of its
    likeliest word, with one frozen pass.

    With `shared_ascent` the kept row's own backward pass gives pi's gradient as well, so that the
    search costs no pass: theta' descends and pi ascends at the same time on the same draw, as in
    free adversarial training (Shafahi et al., NeurIPS 2019), where the published schedule takes
    turns.
    """

    Config = GumbelConfig
    config: GumbelConfig
    adversarial = True

    @property
    def rows_drawn(self) -> int:
        ascents = 0 if self.config.shared_ascent else self.config.ascent_steps
        return self.config.keep_rows * (1 + ascents)

    def expected_passes(self, context: ErasureContext, rows: int) -> float:
        kept = rows * self.config.keep_rows
        soft = 0 if self.config.hard else 1
        with_gradient = 3 if self.config.exact_gradient else soft  # the frozen passes of a draw
        if self.config.shared_ascent:
            return float(kept * with_gradient)
        ascents = self.config.ascent_steps * (1 - 1 / context.steps)  # none in the first step
        return float(kept * (ascents * (3 + with_gradient) + soft))

    def prepare(self, task: GradientErasure) -> None:
        super().prepare(task)
        self.temperature, self.step = self.config.temperature, 0
        count = len(task.context.erasure.erased)
        ascents = 1 if self.config.shared_ascent else max(1, self.config.ascent_steps)
        rate = self.config.ascent_lr or REACH / (task.context.steps * ascents)
        self.pi = torch.zeros(count, len(self.space), device=task.family.device)
        self.pi.requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.pi], lr=rate, maximize=True)
        self.start = self.expected_embeds()
        if self.config.shared_ascent and task.config.keep_weight:
            self.pi.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                self.ascend_shared
            )

    def ascend(self, batch: ErasedBatch) -> None:
        start = self.config.temperature
        falling = start * self.config.temperature_decay**batch.step
        self.temperature, self.step = max(min(COLDEST, start), falling), batch.step
        if self.config.shared_ascent or batch.step == 0:
            return
        batch = batch.repeated(self.config.keep_rows)
        for ascent in range(self.config.ascent_steps):
            generator = self.task.context.generator(batch.step, f"ascend {ascent}")
            y = self.draw(batch.concepts, generator)
            (self.pi.grad,) = torch.autograd.grad(self.gain(batch, y, generator), self.pi)
            self.optimizer.step()

    def ascend_shared(self, pi: Tensor) -> None:
        """One step on pi, whose gradient the outer step's loss has just given, lambda times."""
        if pi.grad is None:
            raise RuntimeError("A hook for accumulated gradients was called without one.")
        pi.grad = self.task.context.mean(pi.grad.div_(self.task.config.keep_weight))
        if self.step:
            self.optimizer.step()
        pi.grad = None

    def gain(self, batch: ErasedBatch, y: Tensor, generator: torch.Generator) -> Tensor:
        """What pi ascends on, a scalar: L2 of the mixtures y [B, K]."""
        keep = self.rows(y, generator)
        noise_pred = self.task.family.predict_noise(
            keep.latents, keep.timesteps, keep.prompt_embeds
        )
        return self.task.mse(noise_pred, keep.noise_pred, keep.timesteps)

    def keep(self, batch: ErasedBatch) -> KeepBatch:
        batch = batch.repeated(self.config.keep_rows)
        generator = self.task.context.generator(batch.step, "keep")
        with torch.set_grad_enabled(self.config.shared_ascent):
            y = self.draw(batch.concepts, generator)
            self.chosen, self.concepts = y.argmax(dim=1).cpu(), batch.concepts
            return self.rows(y, self.task.latents_generator(batch.step, generator))

    def draw(self, concepts: Tensor, generator: torch.Generator) -> Tensor:
        """y for each row, [B, K], differentiable in pi.

        A hard draw does not depend on T, its gradient in pi does.

        Args:
            concepts: which erased concept each row stands beside, [B].
        """
        logits = self.pi[concepts]
        uniform = torch.rand(logits.shape, generator=generator).clamp(1e-10, 1 - 1e-7)
        noise = -torch.log(-torch.log(uniform)).to(logits)
        y = torch.softmax((logits + noise) / self.temperature, dim=1)
        if not self.config.hard:
            return y
        one_hot = torch.zeros_like(y).scatter_(1, y.argmax(dim=1, keepdim=True), 1.0)
        return one_hot + (y - y.detach())  # in this order exactly one-hot

    def rows(self, y: Tensor, generator: torch.Generator) -> KeepBatch:
        """The kept rows of mixtures y [B, K]: c_a = y R on its likeliest word's own z_t."""
        embeds = torch.einsum("bk,kld->bld", y, self.space.prompt_embeds)
        drawn = self.source.draw(y.argmax(dim=1).cpu(), generator)
        noise_pred = drawn.noise_pred
        if self.config.exact_gradient and embeds.requires_grad:
            with self.task.context.frozen.swapped():
                noise_pred = self.task.family.predict_noise(drawn.latents, drawn.timesteps, embeds)
        elif not self.config.hard:
            noise_pred = self.task.frozen_noise(drawn.latents, drawn.timesteps, embeds.detach())
        return KeepBatch(drawn.latents, drawn.timesteps, embeds, noise_pred)

    @torch.no_grad()
    def expected_embeds(self) -> Tensor:
        """softmax(pi) R, the distribution's mean, [E, L, D]."""
        return torch.einsum("ek,kld->eld", self.pi.softmax(dim=1), self.space.prompt_embeds)

    @torch.no_grad()
    def describe_search(self, erased: int) -> dict[str, Any]:
        probabilities = self.pi[erased].softmax(dim=0)
        start = self.start[erased]
        mean = torch.einsum("k,kld->ld", probabilities, self.space.prompt_embeds)
        shift = (mean - start).norm() / start.norm()
        return {
            "entropy": float(-(probabilities * probabilities.clamp_min(1e-30).log()).sum()),
            "uniform": math.log(len(probabilities)),
            "shift": float(shift),
            "nearest": self.space.words[int(probabilities.argmax())],
        }

    def state_dict(self) -> dict[str, Tensor]:
        moments = self.optimizer.state.get(self.pi, {})
        return {"pi": self.pi.detach(), **{f"adam.{key}": v for key, v in moments.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.pi.copy_(state["pi"])
        adam = {key.partition(".")[2]: v.clone() for key, v in state.items() if key[:5] == "adam."}
        if adam:
            self.optimizer.state[self.pi] = adam

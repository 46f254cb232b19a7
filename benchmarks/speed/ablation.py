"""What each idea saves: erasekit's gumbel with its defaults, and each idea switched off in turn.

A switched-off idea computes the same objective the dearer way. Only costs are compared here; what
pi's own passes and guidance for kept words do to quality is in benchmarks/tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.speed.runs import Bench, Run
from erasekit.diffusion.trajectories import FrozenTrajectories, LatentBatch
from erasekit.methods.gradient import ErasedBatch, GradientErasure
from erasekit.methods.preservation.gumbel import GumbelPreservation
from erasekit.models.families import FamilyAdapter
from erasekit.training.trainer import Callback


@dataclass(frozen=True)
class Variant:
    """The default with one idea switched off.

    Attributes:
        name: what is switched off.
        settings: hyperparameters that do it.
        patched: a context in which the code does it.
        callback: what does it while the run goes on, made for one run.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext
    callback: Callable[[Bench, str], Callback] | None = None

    def run(self, bench: Bench, concept: str, seed: int = 0) -> Run:
        """One erasure."""
        callbacks = [self.callback(bench, concept)] if self.callback else []
        with self.patched():
            return bench.ours([concept], seed, self.settings, callbacks=callbacks)


@contextmanager
def predictions_computed_anew() -> Iterator[None]:
    """The frozen predictions that a row needs are passes of their own, though sampling made them.

    An erased row needs both, a kept row that of its own prompt.
    """
    draw, erased_batch = FrozenTrajectories.draw, GradientErasure.erased_batch
    erasing: list[bool] = []

    def told(self: GradientErasure, number: int) -> ErasedBatch:
        erasing.append(True)
        try:
            return erased_batch(self, number)
        finally:
            erasing.pop()

    def anew(self: FrozenTrajectories, indices: Tensor, *rest: Any, **options: Any) -> LatentBatch:
        kept = draw(self, indices, *rest, **options)
        embeds = self.prompt_embeds[indices]
        prompts = [embeds]
        if erasing:
            prompts.append(self.family.unconditional_embeds().expand_as(embeds))
        count = len(prompts)
        with torch.no_grad(), self.frozen.swapped():
            latents, timesteps = kept.latents.repeat(count, 1, 1, 1), kept.timesteps.repeat(count)
            found = self.family.predict_noise(latents, timesteps, torch.cat(prompts)).chunk(count)
        uncond = found[1] if erasing else None
        return LatentBatch(kept.latents, kept.timesteps, found[0], uncond)

    with (
        patch.object(FrozenTrajectories, "draw", anew),
        patch.object(GradientErasure, "erased_batch", told),
    ):
        yield


@contextmanager
def sampled_whole() -> Iterator[None]:
    """A word's trajectory is sampled to its end when the word is first drawn."""
    sample = FrozenTrajectories.sample

    def whole(self: FrozenTrajectories, wanted: Sequence[tuple[int, int, int]]) -> None:
        sample(self, [(p, n, self.steps) for p, n, _ in wanted])

    with patch.object(FrozenTrajectories, "sample", whole):
        yield


@contextmanager
def branches_apart() -> Iterator[None]:
    """The erase and the keep branch are passes of their own."""
    step, predict = GradientErasure.training_step, FamilyAdapter.predict_noise

    def apart(self: FamilyAdapter, latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        half = len(latents) // 2
        parts = (slice(0, half), slice(half, None))
        return torch.cat([predict(self, latents[p], timesteps[p], embeds[p]) for p in parts])

    def training_step(self: GradientErasure, number: int) -> Any:
        batch = self.erased_batch(number)
        self.strategy.ascend(batch)
        with (
            patch.object(GradientErasure, "erased_batch", lambda *_: batch),
            patch.object(type(self.strategy), "ascend", lambda *_: None),
            patch.object(FamilyAdapter, "predict_noise", apart),
        ):
            return step(self, number)

    with patch.object(GradientErasure, "training_step", training_step):
        yield


@contextmanager
def ascent_with_the_erase_branch() -> Iterator[None]:
    """A step on pi, with passes of its own, runs the erase branch too, as published."""
    ascend = GumbelPreservation.ascend

    def both(self: GumbelPreservation, batch: ErasedBatch) -> None:
        for _ in range(self.config.ascent_steps):
            embeds = batch.prompt_embeds.clone().requires_grad_(True)
            noise_pred = self.task.family.predict_noise(batch.latents, batch.timesteps, embeds)
            torch.autograd.grad(noise_pred.square().mean(), embeds)
        ascend(self, batch)

    with patch.object(GumbelPreservation, "ascend", both):
        yield


class GradientsForAll(Callback):
    """Every parameter gets a gradient; those in scope alone are changed."""

    def __init__(self, bench: Bench, concept: str) -> None:
        self.unet = bench.model.unet

    def on_start(self, step: int, total_steps: int) -> None:
        self.unet.requires_grad_(True)

    def on_end(self) -> None:
        for parameter in self.unet.parameters():
            parameter.grad = None


class EmbedsR(Callback):
    """R is embedded in every step."""

    def __init__(self, bench: Bench, concept: str) -> None:
        self.model = bench.model
        self.words = bench.space(concept).words

    def on_step(self, record: dict[str, Any]) -> None:
        self.model.family.embed_prompts(self.words)


OWN_PASSES = {"shared_ascent": False}
DDIM = {"trajectory_solver": "ddim"}

VARIANTS = (
    Variant("default"),
    Variant("z_t sampled anew from the current model", {"latents_from": "current"}),
    Variant("frozen predictions computed anew", patched=predictions_computed_anew),
    Variant("8 solver steps of DDIM", {**DDIM, "trajectory_steps": 8}),
    Variant("50 solver steps of DDIM", {**DDIM, "trajectory_steps": 50}),
    Variant("whole trajectories of the words that are drawn", patched=sampled_whole),
    Variant("erase and keep branch apart", patched=branches_apart),
    Variant("kept words sampled with guidance", {"keep_guidance": 3.0}),
    Variant("pi with passes of its own", OWN_PASSES),
    Variant(
        "pi with passes of its own, and the erase branch", OWN_PASSES, ascent_with_the_erase_branch
    ),
    Variant("gradients for all parameters", callback=GradientsForAll),
    Variant("R embedded in every step", callback=EmbedsR),
)

"""One erasure, scored along the run until the concept is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erasekit.bench.measure import spread_of
from erasekit.bench.suite import Suite
from erasekit.bench.suites import paper_world
from erasekit.concepts import Erasure
from erasekit.diffusion.sampling import generate
from erasekit.diffusion.scope import FrozenWeights
from erasekit.diffusion.solvers import DDIM
from erasekit.diffusion.trajectories import FrozenTrajectories, LatentBatch
from erasekit.metrics.judges import load_scorer
from erasekit.metrics.judges.labels import LabelSet
from erasekit.models.loading import LoadedModel
from erasekit.models.unet_passes import PassCount
from erasekit.plugin.registry import Registry
from erasekit.training.erase import erase
from erasekit.training.trainer import Callback

GONE = 0.9
"""The share of images (ESR-1) at which a concept counts as erased."""


@dataclass(frozen=True)
class Yardstick:
    """How a run is scored; far cheaper than a suite, and on other noises.

    Attributes:
        erased_images: starting noises of the erased concept.
        kept_images: starting noises per kept concept.
        near, far: held-out concepts: neighbours of what is erased, and others.
        watched: further held-out concepts whose noise predictions are compared, but not drawn.
        num_inference_steps: sampling steps.
        first_noise: seeds of noises count from here; suites count from 0.
    """

    erased_images: int = 16
    kept_images: int = 6
    near: int = 6
    far: int = 4
    watched: int = 20
    num_inference_steps: int = 12
    first_noise: int = 1000


class Enough(Exception):  # noqa: N818 - nothing has gone wrong
    """The concept is gone: the rest of the run is not needed."""


class AlongTheRun(Callback):
    """Scores the erased concept after each of `steps`, and the others where it is gone.

    Drift is the mean squared difference between the trained and the frozen model's noise
    predictions for held-out concepts on their own trajectories, times 1000: what preservation
    minimises, on words that it never saw. It costs few passes and varies little.

    Stops the run at the second step in a row that leaves none of the erased concept.

    Args:
        passes: the run's counter of UNet passes; None is the model's. What is spent here does not
            count.
    """

    def __init__(
        self,
        model: LoadedModel,
        registry: Registry,
        erasure: Erasure,
        steps: Sequence[int],
        yardstick: Yardstick,
        passes: PassCount | None = None,
        stop_early: bool = True,
    ) -> None:
        self.model, self.erasure, self.steps = model, erasure, set(steps)
        self.yardstick, self.stop_early = yardstick, stop_early
        self.scorer = load_scorer(model.descriptor.scorer, registry, device=model.family.device)
        suite = Suite("tuning", "1", "", tuple(model.concepts) or paper_world())
        self.labels = LabelSet(suite.classes())
        names = spread_of(suite, erasure, yardstick.near, yardstick.far + yardstick.watched)
        self.kept = names[: yardstick.near + yardstick.far]
        self.passes = passes or model.passes
        self.restart()
        with self._uncounted():
            self.base = self._scores(self.kept, yardstick.kept_images)[0]
            self.rows = self._rows(names)

    def restart(self) -> None:
        """Forget the run, but not the un-erased model."""
        self.points: list[dict[str, Any]] = []
        self.adversary: Any = None
        self.began, self.own = self.passes.snapshot(), PassCount()

    def on_step(self, record: dict[str, Any]) -> None:
        self.adversary = record["adversary"]

    def on_weights(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        if step not in self.steps:
            return
        self.score(step)
        gone = [point["esr1"] == 1 for point in self.points[-2:]]
        if self.stop_early and gone == [True, True]:
            raise Enough

    def score(self, step: int) -> None:
        """Add a point: the model as it is now."""
        spent = self.passes - self.began - self.own
        with self._uncounted():
            self.points.append({"step": step, "passes": spent.cost, **self._measured(step)})

    def _measured(self, step: int) -> dict[str, Any]:
        names = [concept.text for concept in self.erasure.erased]
        scores, ranks = self._scores(names, self.yardstick.erased_images)
        drift = self._drift()
        near = self.yardstick.near
        found = {
            "esr1": float((ranks > 1).mean()),
            "alignment": float(scores.mean()),
            "drift_near": float(drift[:near].mean()),
            "drift_far": float(drift[near:].mean()),
        }
        if found["esr1"] >= GONE or step == max(self.steps, default=None):
            after = self._scores(self.kept, self.yardstick.kept_images)[0]
            deltas = (self.base - after).mean(axis=1)
            found["delta_near"] = float(deltas[:near].mean())
            found["delta_far"] = float(deltas[near:].mean())
        return found

    @torch.no_grad()
    def _rows(self, names: Sequence[str]) -> LatentBatch:
        """z_t and frozen predictions of the concepts, four timesteps of each."""
        self.row_embeds = self.model.family.embed_prompts(list(names)).repeat_interleave(4, dim=0)
        source = FrozenTrajectories(
            self.model.family,
            self.model.family.embed_prompts(list(names)),
            solver=DDIM(self.model.family, 8),
            guidance_scale=self.model.descriptor.guidance_scale,
            per_prompt=1,
            seed=self.yardstick.first_noise,
            frozen=FrozenWeights(self.model.unet, {}),
        )
        index = torch.arange(len(names)).repeat_interleave(4)
        return source.draw(index, torch.Generator().manual_seed(0))

    @torch.no_grad()
    def _drift(self) -> np.ndarray:
        """[names]"""
        parts = zip(
            self.rows.latents.split(32),
            self.rows.timesteps.split(32),
            self.row_embeds.split(32),
            strict=True,
        )
        noise_pred = torch.cat([self.model.family.predict_noise(*part) for part in parts])
        errors = (noise_pred - self.rows.noise_pred).square().flatten(1).mean(dim=1)
        found: np.ndarray = 1000 * errors.reshape(-1, 4).mean(dim=1).numpy()
        return found

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        before = self.passes.snapshot()
        yield
        spent = self.passes - before
        self.own = PassCount(self.own.forward + spent.forward, self.own.backward + spent.backward)

    def _scores(self, names: Sequence[str], images: int) -> tuple[np.ndarray, np.ndarray]:
        """Alignment and rank, [names, images] each."""
        prompts = [name for name in names for _ in range(images)]
        seeds = [self.yardstick.first_noise + i for _ in names for i in range(images)]
        steps = self.yardstick.num_inference_steps
        drawn = generate(self.model, prompts, seeds, num_inference_steps=steps)
        values = [score.value for score in self.scorer.score(drawn, prompts)]
        ranks = self.labels.ranks(self.scorer, drawn, prompts)
        shape = (len(names), images)
        return np.reshape(values, shape), np.reshape(ranks, shape)


def watch_method(
    model: LoadedModel,
    registry: Registry,
    method: str,
    concept: str,
    seed: int,
    settings: Mapping[str, Any],
    steps: Sequence[int],
    yardstick: Yardstick,
) -> AlongTheRun:
    """Run `method` for `max(steps)` steps, and give the points."""
    erasure = Erasure((model.concept(concept),))
    watch = AlongTheRun(model, registry, erasure, steps, yardstick)
    with suppress(Enough):
        erase(
            model,
            erasure,
            method,
            registry=registry,
            seed=seed,
            settings={**settings, "steps": max(steps)},
            callbacks=[watch],
        )
    return watch

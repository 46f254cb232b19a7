"""One erasure each: erasekit's gumbel with its defaults, and the published schedule."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.speed.published import PublishedConfig, erase_as_published
from benchmarks.tuning.published import installed
from erasekit.bench.measure import spread_of
from erasekit.bench.suite import Suite
from erasekit.bench.suites import paper_world
from erasekit.concepts import Erasure
from erasekit.diffusion.concept_space import ConceptSpace, concept_space
from erasekit.diffusion.sampling import generate
from erasekit.metrics.judges import load_scorer
from erasekit.metrics.judges.labels import LabelSet
from erasekit.models.loading import LoadedModel, load_model
from erasekit.models.unet_passes import PassCount
from erasekit.plugin.registry import Registry
from erasekit.training.erase import erase
from erasekit.training.trainer import Callback

LEARNING_RATE, FAST = 3e-4, 1e-3
"""Of both schedules; the number of steps is what the tuning rule chooses."""
PUBLISHED_STEPS = {LEARNING_RATE: 65, FAST: 20}
"""Steps on theta': the fewest that erase all tuning concepts (benchmarks/tuning)."""
FEW_WORDS = {"num_concepts": 32, "ascent_lr": 0.01}
"""R and pi's rate before R was the whole pool and the rate followed the number of ascents."""
DDIM_8 = {**FEW_WORDS, "trajectory_solver": "ddim", "trajectory_steps": 8}
"""How trajectories were sampled before there was a solver of second order."""
SIX_NOISES = {**DDIM_8, "trajectories": 6}
"""Starting noises of what is erased before there were 24; the next three were tuned with it."""
EARLIER = {**SIX_NOISES, "steps": 150}
"""erasekit as it came first."""
SAME_LAMBDA = {**SIX_NOISES, "steps": 100, "keep_weight": 1.0}
"""erasekit at the published lambda, with the steps that the rule gives: the same objective."""
FAST_STEPS = {**SIX_NOISES, "learning_rate": FAST, "steps": 30, "keep_weight": 1.0}
"""erasekit at the larger rate, by the same rule, at the published lambda."""


@dataclass(frozen=True)
class Run:
    """What one erasure gave.

    Attributes:
        tensors: trained values by name.
        forward, backward: batch-weighted UNet passes.
        seconds: from the loaded model to the trained tensors.
        settings: all hyperparameters.
    """

    tensors: Mapping[str, Tensor]
    forward: int
    backward: int
    seconds: float
    settings: Mapping[str, Any]

    @property
    def cost(self) -> int:
        """Forward + 2 backward."""
        return self.forward + 2 * self.backward


@dataclass(frozen=True)
class Bench:
    """The model and what scores it."""

    model: LoadedModel
    registry: Registry

    @classmethod
    def icons(cls) -> Bench:
        """The model in the wheel."""
        registry = Registry()
        return cls(load_model("icons", registry), registry)

    def ours(
        self,
        concepts: Sequence[str],
        seed: int,
        settings: Mapping[str, Any] | None = None,
        method: str = "gumbel",
        callbacks: Sequence[Callback] = (),
    ) -> Run:
        """erasekit, with its defaults where `settings` says nothing."""
        began = time.perf_counter()
        erasure = Erasure(tuple(self.model.concept(name) for name in concepts))
        edit = erase(
            self.model,
            erasure,
            method,
            registry=self.registry,
            seed=seed,
            settings=settings,
            callbacks=callbacks,
        )
        passes = edit.info["unet_passes"]
        seconds = time.perf_counter() - began
        config = edit.info["config"]
        return Run(edit.tensors, passes["forward"], passes["backward"], seconds, config)

    def space(self, concept: str) -> ConceptSpace:
        """R of erasekit's default."""
        erasure = Erasure((self.model.concept(concept),))
        features = self.model.family.word_features([concept])
        size = self.model.descriptor.defaults["*"]["num_concepts"]
        return concept_space(self.model, erasure).nearest(features, size)

    def published(
        self,
        concept: str,
        seed: int,
        steps: int = 0,
        learning_rate: float = LEARNING_RATE,
        **settings: Any,
    ) -> Run:
        """The published schedule, with the same R as erasekit's default.

        Args:
            steps: on theta'; 0 is what the tuning rule chose for this learning rate.
            settings: further fields of `PublishedConfig`.
        """
        began = time.perf_counter()
        family, passes = self.model.family, PassCount()
        steps = steps or PUBLISHED_STEPS[learning_rate]
        config = PublishedConfig(steps=steps, learning_rate=learning_rate, **settings)
        space = self.space(concept)
        tensors, _ = erase_as_published(
            self.model.pipeline,
            family.embed_prompts([concept]),
            space.prompt_embeds,
            family.unconditional_embeds(),
            config,
            seed,
            passes=passes,
        )
        seconds = time.perf_counter() - began
        settings = {**asdict(config), "num_concepts": len(space)}
        return Run(tensors, passes.forward, passes.backward, seconds, settings)


@dataclass
class Eye:
    """Draws and scores: an erased concept and held-out others, with or without trained values.

    Attributes:
        erased_images, kept_images: starting noises per concept, counted from 0.
        near, far: how many held-out neighbours of what is erased, and others.
    """

    bench: Bench
    erased_images: int = 20
    kept_images: int = 4
    near: int = 6
    far: int = 6

    def __post_init__(self) -> None:
        model = self.bench.model
        self.scorer = load_scorer(
            model.descriptor.scorer, self.bench.registry, device=model.family.device
        )
        self.suite = Suite("speed", "1", "", tuple(model.concepts) or paper_world())
        self.labels = LabelSet(self.suite.classes())
        self._unerased: dict[str, dict[str, Any]] = {}

    def before(self, concept: str) -> dict[str, Any]:
        """What the un-erased model draws, looked at once per concept."""
        if concept not in self._unerased:
            self._unerased[concept] = self.look(concept)
        return self._unerased[concept]

    def look(self, concept: str, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """`gone`: whether each picture of the concept shows something else by the classifier;
        `kept`: alignment per held-out concept and noise.
        """
        model = self.bench.model
        erasure = Erasure((model.concept(concept),))
        kept = spread_of(self.suite, erasure, self.near, self.far)
        names = [concept] * self.erased_images + [k for k in kept for _ in range(self.kept_images)]
        seeds = [*range(self.erased_images), *[*range(self.kept_images)] * len(kept)]
        with installed(model.unet, tensors) if tensors else nullcontext():
            images = generate(model, names, seeds, batch_size=32)
        ranks = self.labels.ranks(
            self.scorer, images[: self.erased_images], [concept] * self.erased_images
        )
        scores = [
            score.value
            for score in self.scorer.score(
                images[self.erased_images :], names[self.erased_images :]
            )
        ]
        rows = np.reshape(scores, (len(kept), self.kept_images)).tolist()
        return {
            "gone": [rank > 1 for rank in ranks],
            "kept": dict(zip(kept, rows, strict=True)),
        }

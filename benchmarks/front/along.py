"""One erasure, scored along the run: what is left, what it cost, what is drawn instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erasekit.bench.suite import Suite
from erasekit.bench.suites import paper_world
from erasekit.concepts import Erasure
from erasekit.diffusion.sampling import generate
from erasekit.metrics.judges import load_scorer
from erasekit.metrics.judges.labels import LabelSet
from erasekit.models.loading import LoadedModel
from erasekit.models.unet_passes import PassCount
from erasekit.plugin.registry import Registry
from erasekit.training.trainer import Callback

LEFT, ESR1 = (40.0, 25.0, 15.0), (0.90, 0.95)
"""Where fronts are read off: alignment left, and the share of pictures that show something else."""


@dataclass(frozen=True)
class Yardstick:
    """How a run is scored; noises are those of no suite.

    Attributes:
        erased_images: starting noises of the erased concept.
        kept_images: starting noises per kept concept.
        near: held-out concepts of the erased one's family, nearest in its order.
        middle: held-out concepts of other families, nearest by the model's word features.
        far: others, evenly spread over those features.
        num_inference_steps: sampling steps.
        first_noise: seeds of noises count from here; suites count from 0.
        quantile: a picture is still one of something where its best class fits better than this
            share of the un-erased model's pictures fit theirs.
    """

    erased_images: int = 12
    kept_images: int = 2
    near: int = 3
    middle: int = 2
    far: int = 3
    num_inference_steps: int = 10
    first_noise: int = 2000
    quantile: float = 0.1


class Enough(Exception):  # noqa: N818 - nothing has gone wrong
    """All points where fronts are read off have been passed."""


class Look:
    """Draws and scores one erased concept and what is kept; knows the un-erased model's pictures.

    Attributes:
        kept: held-out concepts, by how near they are.
    """

    def __init__(
        self, model: LoadedModel, registry: Registry, erasure: Erasure, yardstick: Yardstick
    ) -> None:
        self.model, self.erasure, self.yardstick = model, erasure, yardstick
        self.scorer = load_scorer(model.descriptor.scorer, registry, device=model.family.device)
        self.suite = Suite("front", "1", "", tuple(model.concepts) or paper_world())
        self.labels = LabelSet(self.suite.classes())
        self.kept = self._by_nearness()
        self.base = self._drawn()
        best = np.concatenate([fits for _, _, fits in self.base.values()])
        self.threshold = float(np.quantile(best, yardstick.quantile))

    @property
    def left(self) -> float:
        """Alignment of the erased concept before it is erased."""
        return float(self.base[self._erased][0].mean())

    def measure(self) -> dict[str, Any]:
        """The model as it is now; `delta` by kept concept."""
        now = self._drawn()
        scores, ranks, best = now[self._erased]
        return {
            "left": float(scores.mean()),
            "esr1": float((ranks > 1).mean()),
            "still": float((best >= self.threshold).mean()),
            "delta": {
                name: float((self.base[name][0] - now[name][0]).mean())
                for names in self.kept.values()
                for name in names
            },
        }

    @property
    def _erased(self) -> str:
        (concept,) = self.erasure.erased
        return concept.text

    def _by_nearness(self) -> dict[str, list[str]]:
        stays = self.suite.stays(self.erasure)
        held_out = [c for c in self.suite.concepts if c.name in stays and c.split != "pool"]
        near = self.suite.near_neighbours(self.erasure, stays, self.yardstick.near)
        near_names = [c.name for c in near if c.split != "pool"]
        family = {self.suite.family_of(c.names) for c in self.erasure.erased}
        others = [c.name for c in held_out if c.family not in family]
        with torch.no_grad():
            features = self.model.family.word_features([self._erased, *others])
        order = (features[1:] @ features[0]).argsort(descending=True, stable=True).tolist()
        ranked, middle = [others[i] for i in order], self.yardstick.middle
        rest = ranked[middle:]
        far = rest[:: max(1, len(rest) // self.yardstick.far)][: self.yardstick.far]
        return {"near": near_names, "middle": ranked[:middle], "far": far}

    def _drawn(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Alignment, rank of the own class, and fit of the best one, by concept and noise."""
        counts = {self._erased: self.yardstick.erased_images}
        for names in self.kept.values():
            counts |= dict.fromkeys(names, self.yardstick.kept_images)
        prompts = [name for name, count in counts.items() for _ in range(count)]
        seeds = [self.yardstick.first_noise + i for count in counts.values() for i in range(count)]
        steps = self.yardstick.num_inference_steps
        images = generate(self.model, prompts, seeds, num_inference_steps=steps)
        scores = np.array([score.value for score in self.scorer.score(images, prompts)])
        ranks = np.array(self.labels.ranks(self.scorer, images, prompts))
        best = self.labels.logits(self.scorer, images).max(axis=1)
        found, start = {}, 0
        for name, count in counts.items():
            part = slice(start, start + count)
            found[name] = scores[part], ranks[part], best[part]
            start += count
        return found


class AlongTheRun(Callback):
    """Looks after each of `steps`, until all of `LEFT` and `ESR1` have been passed.

    Attributes:
        points: what was seen, with the UNet passes of the run until then.
        adversary: what the history says last of the search.
    """

    def __init__(self, look: Look, steps: Sequence[int]) -> None:
        self.look, self.steps = look, set(steps)
        self.points: list[dict[str, Any]] = []
        self.adversary: Any = None
        self.passes = look.model.passes
        self.began, self.own = self.passes.snapshot(), PassCount()

    def on_step(self, record: dict[str, Any]) -> None:
        self.adversary = record["adversary"]

    def on_weights(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        if step not in self.steps:
            return
        spent = self.passes - self.began - self.own
        with self.uncounted():
            self.points.append({"step": step, "passes": spent.cost, **self.look.measure()})
        if self.points[-1]["left"] < LEFT[-1] and self.points[-1]["esr1"] >= ESR1[-1]:
            raise Enough

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Passes of the block are not the run's."""
        before = self.passes.snapshot()
        yield
        spent = self.passes - before
        self.own = PassCount(self.own.forward + spent.forward, self.own.backward + spent.backward)

"""ESR-k, is the erased concept gone, and PSR-k, is everything else still there."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

from erasekit.metrics.base import CrossedMetric
from erasekit.metrics.scores import Estimate, Paired, Split
from erasekit.metrics.statistics import crossed_rate

DRAWN = 0.25
"""A concept that the base model draws in a smaller share of its images can't be seen to go."""


class TopKRate(CrossedMetric):
    """A share of images, 0 to 1, whose class is in the classifier's top k, or is not.

    Args:
        k: how many top places count.
        when: images before or after the erasure.
    """

    higher_is_better: ClassVar[bool] = True
    inside: ClassVar[bool]

    def __init__(self, k: int = 1, when: Literal["before", "after"] = "after") -> None:
        if k < 1:
            raise ValueError(f"k is {k}; the top k starts at 1")
        self.k, self.when = k, when
        self.reset()

    def values(self, concept: Paired) -> tuple[float, ...]:
        side = concept.before if self.when == "before" else concept.after
        return tuple(
            math.nan if math.isnan(rank) else float((rank <= self.k) == self.inside)
            for rank in side.ranks
        )

    def compute(self) -> Estimate:
        table, strata, noises = self.table()
        found = crossed_rate(table, strata=strata, noises=noises)
        return replace(found, missing=self.came_in - found.n)


class ErasingSuccessRate(TopKRate):
    """Share of images of erased concepts whose class is NOT in the classifier's top k.

    What was not there before can't be erased: concepts whose class is in the top k of fewer than
    `DRAWN` of the base model's images are left out, and the note says so. The rate before an
    erasure is of the same concepts; where none is drawn it is of all, to show it.
    """

    split: Split | None = "erased"
    inside = False

    def update(self, concept: Paired, seed: int = 0, stratum: str = "") -> None:
        super().update(concept, seed, stratum)
        ranks = [rank for rank in concept.before.ranks if not math.isnan(rank)]
        drawn = sum(rank <= self.k for rank in ranks)
        if concept.split == self.split and drawn < DRAWN * len(ranks):
            self._unseen[concept.concept] = f"{drawn} of {len(ranks)}"

    def compute(self) -> Estimate:
        every = self._values
        seen = {key: own for key, own in every.items() if key[1] not in self._unseen}
        if self.when == "before" and not seen:
            return super().compute()
        self._values = seen
        found = super().compute()
        self._values = every
        clauses = [f"{name!r} in {share}" for name, share in self._unseen.items()]
        if not clauses:
            return found
        note = f"left out, since the base model's own images show {' and '.join(clauses)}"
        return replace(found, note=note)

    def reset(self) -> None:
        super().reset()
        self._unseen: dict[str, str] = {}


class PreservingSuccessRate(TopKRate):
    """Share of images of held-out concepts whose class IS in the classifier's top k."""

    split: Split | None = "held-out"
    inside = True

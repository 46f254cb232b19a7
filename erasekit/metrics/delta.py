"""Delta: what an erasure costs the concepts that should stay."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from erasekit.metrics.base import CrossedMetric
from erasekit.metrics.scores import Estimate, Paired, Split
from erasekit.metrics.statistics import CrossedEffect, crossed_effect


class Delta(CrossedMetric):
    """Mean loss of alignment at the same starting noise, with a 95 % confidence interval.

    delta(c) = mean over noises i of S(before, i, c) - S(after, i, c); larger is more damage. The
    mean weighs each concept of each erased set the same. See `crossed_effect` for the interval.

    Args:
        split: which concepts; None takes all that come in.
    """

    higher_is_better: ClassVar[bool] = False

    def __init__(self, split: Split | None = "held-out") -> None:
        self.split = split
        self.reset()

    def values(self, concept: Paired) -> tuple[float, ...]:
        return concept.deltas

    def compute(self) -> Estimate:
        return self.effect().estimate()

    def effect(self) -> CrossedEffect:
        """The mean with what its interval and tests are made of."""
        table, strata, noises = self.table()
        effect = crossed_effect(table, strata=strata, noises=noises)
        return replace(effect, missing=self.came_in - effect.n)

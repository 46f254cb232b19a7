"""Delta: what an erasure costs the concepts that should stay."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from erasekit.metrics.base import Metric
from erasekit.metrics.statistics import CrossedEffect, crossed_effect
from erasekit.records import Estimate, Paired, Role


class Delta(Metric):
    """Mean loss of alignment at the same starting noise, with a 95 % confidence interval.

    delta(c) = mean over noises i of S(before, i, c) - S(after, i, c); larger is more damage. The
    mean over concepts weighs each the same; over several erased sets, each concept of each set, so
    that with as many concepts in every set it is the mean of the sets' means. Noises are crossed
    with erasure seeds, and a concept of several sets has the same noises in each, see
    `crossed_effect`.

    Args:
        role: which concepts; None takes all that come in.
    """

    higher_is_better: ClassVar[bool] = False

    def __init__(self, role: Role | None = "held-out") -> None:
        self.role = role
        self.reset()

    def update(self, concept: Paired, seed: int = 0, stratum: str = "") -> None:
        """Take in one concept after one erasure.

        Args:
            concept: its scores before and after.
            seed: the erasure seed.
            stratum: the erased set, where several are averaged; their seeds are not the same.
        """
        if self.role in (None, concept.role):
            key = (stratum, concept.concept, concept.before.noises)
            self._deltas.setdefault(key, {})[stratum, seed] = concept.deltas

    def compute(self) -> Estimate:
        return self.effect().estimate()

    def effect(self) -> CrossedEffect:
        """The mean with what its interval and tests are made of."""
        deltas, strata = self.table()
        effect = crossed_effect(deltas, strata=strata, noises=[key[-1] for key in self._deltas])
        came_in = sum(len(d) for by_run in self._deltas.values() for d in by_run.values())
        return replace(effect, missing=came_in - effect.n)

    def table(self) -> tuple[NDArray[np.float64], list[str]]:
        """The deltas, [concepts, noises, runs], NaN where missing, and each run's stratum."""
        runs = list(dict.fromkeys(run for by_run in self._deltas.values() for run in by_run))
        width = max((len(noises) for *_, noises in self._deltas), default=0)
        table = np.full((len(self._deltas), width, len(runs)), np.nan)
        for row, by_run in enumerate(self._deltas.values()):
            for run, values in by_run.items():
                table[row, : len(values), runs.index(run)] = values
        return table, [stratum for stratum, _ in runs]

    def reset(self) -> None:
        self._deltas: dict[
            tuple[str, str, tuple[int, ...]], dict[tuple[str, int], tuple[float, ...]]
        ] = {}

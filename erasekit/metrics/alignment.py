"""CLIP alignment of the erased concepts: how much of them is still drawn."""

from __future__ import annotations

from typing import ClassVar, Literal

from erasekit.metrics.base import Metric
from erasekit.metrics.scores import Estimate, Paired, Split
from erasekit.metrics.statistics import mean_estimate


class Alignment(Metric):
    """Mean alignment, 100 * cosine, of one split's images before or after the erasure.

    Args:
        when: which images.
        split: which concepts.
    """

    higher_is_better: ClassVar[bool] = False

    def __init__(self, when: Literal["before", "after"] = "after", split: Split = "erased") -> None:
        self.when, self.split = when, split
        self.reset()

    def update(self, concept: Paired, seed: int = 0, stratum: str = "") -> None:
        if concept.split == self.split:
            self._values += (concept.before if self.when == "before" else concept.after).scores

    def compute(self) -> Estimate:
        return mean_estimate(self._values)

    def reset(self) -> None:
        self._values: tuple[float, ...] = ()

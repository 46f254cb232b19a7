"""What ESR-k and PSR-k share: the share of images whose class is, or is not, in the top k."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

from erasekit.metrics.alignment import mean_estimate
from erasekit.metrics.base import Metric
from erasekit.records import Estimate, Paired, Role


class TopKRate(Metric):
    """A share of images, 0 to 1, decided per image by its class's rank.

    Args:
        k: how many top places count.
        when: images before or after the erasure.
    """

    higher_is_better: ClassVar[bool] = True
    role: ClassVar[Role]

    def __init__(self, k: int = 1, when: Literal["before", "after"] = "after") -> None:
        if k < 1:
            raise ValueError(f"k is {k}; the top k starts at 1")
        self.k, self.when = k, when
        self.reset()

    @abstractmethod
    def success(self, rank: float) -> bool:
        """Whether an image whose class has this rank counts."""

    def update(self, concept: Paired, seed: int = 0, stratum: str = "") -> None:
        if concept.role == self.role:
            side = concept.before if self.when == "before" else concept.after
            self._values += tuple(
                math.nan if math.isnan(rank) else float(self.success(rank)) for rank in side.ranks
            )

    def compute(self) -> Estimate:
        return mean_estimate(self._values)

    def reset(self) -> None:
        self._values: tuple[float, ...] = ()

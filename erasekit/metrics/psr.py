"""PSR-k: is everything else still there?"""

from __future__ import annotations

from typing import ClassVar

from erasekit.metrics.rates import TopKRate
from erasekit.records import Role


class PreservingSuccessRate(TopKRate):
    """Share of images of held-out concepts whose class IS in the classifier's top k."""

    role: ClassVar[Role] = "held-out"

    def success(self, rank: float) -> bool:
        return rank <= self.k

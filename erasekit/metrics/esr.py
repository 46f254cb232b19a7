"""ESR-k: is the erased concept gone?"""

from __future__ import annotations

from typing import ClassVar

from erasekit.metrics.rates import TopKRate
from erasekit.records import Role


class ErasingSuccessRate(TopKRate):
    """Share of images of erased concepts whose class is NOT in the classifier's top k."""

    role: ClassVar[Role] = "erased"

    def success(self, rank: float) -> bool:
        return rank > self.k

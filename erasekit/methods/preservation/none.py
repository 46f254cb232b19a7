"""Control: the erase term alone."""

from __future__ import annotations

from erasekit.methods.gradient import PreservationStrategy


class NoPreservation(PreservationStrategy):
    """L2 = 0: shows what erasing costs when nothing is preserved."""

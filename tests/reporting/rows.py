"""Rows of a bench to show."""

from __future__ import annotations

from erasekit.bench.records import ConceptRow, Row
from erasekit.metrics.scores import Estimate


def bench_row(
    method: str, delta: float, erased: str = "garbage truck", failed: int = 0, esr1: float = 0.9375
) -> Row:
    """A row with this delta and an interval of 1.25 to either side."""
    return Row(
        method,
        erased,
        Estimate(31.2, 16),
        Estimate(12.3, 16),
        Estimate(esr1, 16),
        Estimate(0.81, 80),
        Estimate(delta, 80, 0, delta - 1.25, delta + 1.25),
        Estimate(delta / 2, 80, 0, delta / 2 - 0.25, delta / 2 + 0.25),
        ("roller coaster", 3 * delta) if method != "base" else None,
        2,
        failed,
        160,
        118.4,
        123_456.0,
    )


def concept_row(
    method: str, concept: str, delta: float, erased: str = "garbage truck", p: float = 0.5
) -> ConceptRow:
    """What an erasure cost a held-out concept, with an interval of 1 to either side."""
    estimate = Estimate(delta, 8, 0, delta - 1, delta + 1)
    return ConceptRow(method, erased, concept, "held-out", "family", estimate, p)

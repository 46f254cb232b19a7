"""Fifty concepts in one edit, eight rows shared out: how many steps until they are gone?"""

from __future__ import annotations

from typing import Any

from benchmarks.speed.runs import Bench
from benchmarks.tuning.along import AlongTheRun, Yardstick
from erasekit.concepts import Erasure

ROWS = 8
AT = {1: (25, 50, 100), 50: (50, 100, 200, 400)}
"""Steps that are scored, by the number of erased concepts."""
PICTURES = {1: 64, 50: 4}
"""Of each erased concept, by their number."""


def measure(rounds: int) -> list[dict[str, Any]]:
    """One erasure by gumbel for each number of concepts, the defaults but for the rows of a step.

    Args:
        rounds: not used; nothing here depends on time.

    Returns:
        A row for each scored step: ESR-1 over the pictures of all erased concepts, delta over
        held-out ones (other ones where fifty are erased), and the passes until then.
    """
    bench, rows = Bench.icons(), []
    for count, at in AT.items():
        objects = [c for c in bench.model.concepts if c.kind == "object" and c.split == "held-out"]
        names = [concept.name for concept in objects[:count]]
        erasure = Erasure(tuple(bench.model.concept(name) for name in names))
        yardstick = Yardstick(erased_images=PICTURES[count], kept_images=4)
        watch = AlongTheRun(bench.model, bench.registry, erasure, at, yardstick, stop_early=False)
        settings = {"batch_size": ROWS, "steps": max(at)}
        bench.ours(names, 0, settings, callbacks=[watch])
        for point in watch.points:
            drawn = "delta_near" in point  # where the concepts are gone, and at the end
            apart = (6 * point["delta_near"] + 4 * point["delta_far"]) / 10 if drawn else None
            rows.append(
                {
                    "erased": count,
                    "step": point["step"],
                    "passes": point["passes"],
                    "esr1": point["esr1"],
                    "delta": apart,
                }
            )
            print(rows[-1], flush=True)
    return rows

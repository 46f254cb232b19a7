"""Fifty concepts in one edit: how many steps and passes until they are gone, by rows a step?"""

from __future__ import annotations

from typing import Any

from benchmarks.speed.runs import Bench
from benchmarks.tuning.along import AlongTheRun, Yardstick
from erasekit.concepts import Erasure

OF_EACH = 0
"""A row for each erased concept, as is the default on icons."""
CASES: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (1, OF_EACH, (50, 100, 130)),
    (50, OF_EACH, (50, 100, 130)),
    (1, 8, (25, 50, 100)),
    (50, 8, (50, 100, 200, 400)),
    (50, 8, (600, 800)),
)
"""Erased concepts, rows a step, and the steps that are scored."""
PICTURES = {1: 64, 50: 4}
"""Of each erased concept, by their number."""


def measure(rounds: int) -> list[dict[str, Any]]:
    """One erasure by gumbel for each case, the defaults but for the rows of a step.

    Args:
        rounds: not used; nothing here depends on time.

    Returns:
        A row for each scored step: ESR-1 over the pictures of all erased concepts, delta over
        held-out ones (other ones where fifty are erased), and the passes until then.
    """
    bench, rows = Bench.icons(), []
    for count, batch_size, at in CASES:
        objects = [c for c in bench.model.concepts if c.kind == "object" and c.split == "held-out"]
        names = [concept.name for concept in objects[:count]]
        erasure = Erasure(tuple(bench.model.concept(name) for name in names))
        yardstick = Yardstick(erased_images=PICTURES[count], kept_images=4)
        watch = AlongTheRun(bench.model, bench.registry, erasure, at, yardstick, stop_early=False)
        settings = {"batch_size": batch_size, "steps": max(at)}
        bench.ours(names, 0, settings, callbacks=[watch])
        for point in watch.points:
            drawn = "delta_near" in point  # where the concepts are gone, and at the end
            apart = (6 * point["delta_near"] + 4 * point["delta_far"]) / 10 if drawn else None
            rows.append(
                {
                    "erased": count,
                    "rows": batch_size or count,
                    "step": point["step"],
                    "passes": point["passes"],
                    "esr1": point["esr1"],
                    "delta": apart,
                }
            )
            print(rows[-1], flush=True)
    return rows

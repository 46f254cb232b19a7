"""Further measures of a row: means over its images or its erasures, by name and role."""

from __future__ import annotations

from collections.abc import Sequence

from erasekit.metrics.statistics import mean_estimate
from erasekit.records import Estimate, Record, Role, mean

CLIP_SCORE = "clip-score"
"""Mean alignment of captions with their images, 100 * cosine."""


def further_measures(runs: Sequence[Record]) -> dict[str, dict[Role, Estimate]]:
    """Of the images after the erasures `runs`."""
    values: dict[str, dict[Role, list[float]]] = {}
    for concept in (concept for run in runs for concept in run.concepts):
        found = dict(concept.after.measures)
        if concept.role == "caption":
            found[CLIP_SCORE] = concept.after.scores
        for name, own in found.items():
            values.setdefault(name, {}).setdefault(concept.role, []).extend(own)
    means = {
        name: {role: mean_estimate(tuple(own)) for role, own in by_role.items()}
        for name, by_role in values.items()
    }
    return {**means, **_of_sets(runs)}


def _of_sets(runs: Sequence[Record]) -> dict[str, dict[Role, Estimate]]:
    """Means over erasures of what each one's captions measure together."""
    found: dict[str, list[Estimate]] = {}
    for run in runs:
        for name, estimate in run.sets.items():
            found.setdefault(name, []).append(estimate)
    return {
        name: {
            "caption": Estimate(
                mean([estimate.value for estimate in own]),
                sum(estimate.n for estimate in own),
                sum(estimate.missing for estimate in own),
                note="; ".join(dict.fromkeys(e.note for e in own if e.note)),
            )
        }
        for name, own in found.items()
    }

"""Which kept concepts an erasure harmed, as far as the noises can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from erasekit.metrics.statistics import EXACT, SIGNIFICANT, holm, sign_flip_test, smallest_p
from erasekit.records import Estimate

FEW_SEEDS = 5


def harmed_share(deltas: Mapping[str, NDArray[np.float64]]) -> tuple[Estimate, dict[str, float]]:
    """The share of concepts that are significantly harmed, and each one's adjusted p value.

    Per concept a one-sided sign-flip test of its deltas, one per noise and averaged over erasure
    seeds, then Holm's correction over the concepts. Seeds are not resampled: what is found is
    found of these edits.

    Args:
        deltas: per concept, [noises, seeds]; NaN where an image is missing.

    Returns:
        The share with the number of concepts tested, and of those that could not be. NaN, with
        the reason as its note, where even a concept that is harmed at every noise would not be
        significant; no p values then.
    """
    by_noise = {name: _over_seeds(values) for name, values in deltas.items()}
    tested = {name: values for name, values in by_noise.items() if len(values)}
    noises = max(map(len, tested.values()), default=0)
    if not tested:
        return Estimate(math.nan, 0, len(deltas), note="no held-out concept was measured"), {}
    if smallest_p(noises) * len(tested) >= SIGNIFICANT:
        return Estimate(math.nan, 0, len(deltas), note=_too_few(noises, len(tested))), {}
    adjusted = holm([sign_flip_test(values) for values in tested.values()])
    share = sum(p < SIGNIFICANT for p in adjusted) / len(tested)
    estimate = Estimate(share, len(tested), len(deltas) - len(tested))
    return estimate, dict(zip(tested, adjusted, strict=True))


def _over_seeds(deltas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over seeds of the noises that have a value, [noises]."""
    there = ~np.isnan(deltas)
    kept = there.any(axis=1)
    summed = np.where(there, deltas, 0.0).sum(axis=1)
    return np.asarray(summed[kept] / there.sum(axis=1)[kept])


def _too_few(noises: int, concepts: int) -> str:
    enough = (n for n in range(noises + 1, EXACT + 2) if smallest_p(n) * concepts < SIGNIFICANT)
    needed = next(enough, None)
    remedy = f"{needed} would be the fewest" if needed else "there are too many concepts to test"
    plural = "s" if concepts > 1 else ""
    return f"too few images per concept ({noises}) to test {concepts} concept{plural}; {remedy}"

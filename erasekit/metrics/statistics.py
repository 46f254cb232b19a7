"""Confidence intervals for deltas: paired by noise, noises crossed with erasure seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from erasekit.metrics.student import t_quantile
from erasekit.records import Estimate

RESAMPLES = 2000


def crossed_interval(
    deltas: NDArray[np.float64],
    *,
    strata: Sequence[Hashable] | None = None,
    shared_noise: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of the concepts' mean deltas, with an interval over noises and erasure seeds.

    Every noise met every seed, so both are resampled, independently of each other; the concepts
    are fixed, the interval says nothing about others. The spread of the resampled means gives the
    standard error (Owen's pigeonhole bootstrap, 2007), after two corrections that matter where
    there are few noises or seeds: resampled weights are stretched by sqrt(n / (n - 1)), because n
    drawn from n vary too little, and the interaction, which crossed resampling counts three
    times, is counted once. Student's t with Satterthwaite's degrees of freedom turns it into
    limits: two seeds that disagree make a wide interval. With one seed it is the paired t
    interval, and speaks about that one edit, not about the method.

    In simulated worlds 95 % intervals cover 93 % to 98 % of the time; the worst case is two seeds
    that spread the mean about as much as the noises do, 89 %. Three seeds mend that.

    Args:
        deltas: [concepts, noises, seeds]; NaN where an image is missing.
        strata: which erased set each seed belongs to, where several are averaged; seeds are
            resampled inside their stratum.
        shared_noise: noise i is the same for all concepts, so that it is drawn for all at once;
            else every concept has noises of its own.
        level: coverage.
        resamples: how many resampled means.
        seed: of the resampling; the same one gives the same interval.

    Returns:
        The mean; n counts the pairs that went in. Limits are NaN where nothing can be resampled.
    """
    there = ~np.isnan(deltas)
    kept = there.any(axis=(1, 2)) if deltas.size else np.zeros(len(deltas), dtype=bool)
    missing = int((~there).sum())
    if not kept.any():
        return Estimate(math.nan, 0, missing)
    deltas, there = deltas[kept], there[kept]
    filled = np.where(there, deltas, 0.0)
    counts = there.sum(axis=(1, 2))
    means = filled.sum(axis=(1, 2)) / counts
    mean, n = float(means.mean()), int(there.sum())
    # Each concept's residuals, scaled so that a weighted sum is that concept's error.
    residuals = np.where(there, filled - means[:, None, None], 0.0)
    residuals /= counts[:, None, None] * len(means)

    labels = list(strata) if strata is not None else [0] * deltas.shape[2]
    noises = _noise_factor(there, shared_noise)
    seeds = _seed_factor(labels)
    error = _standard_error(residuals, noises, seeds, resamples, np.random.default_rng(seed))
    if error is None:
        return Estimate(mean, n, missing)
    reach = t_quantile((1 + level) / 2, error.freedom) * error.size
    return Estimate(mean, n, missing, mean - reach, mean + reach)


@dataclass(frozen=True)
class _Factor:
    """Units that are resampled with replacement inside their groups.

    Attributes:
        groups: the unit indices of each group; a group of one is not resampled.
        size: number of units.
    """

    groups: tuple[NDArray[np.intp], ...]
    size: int

    @property
    def freedom(self) -> int:
        return sum(len(group) - 1 for group in self.groups)

    def weights(self, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Stretched resampling weights, [resamples, units], 1 on average."""
        weights = np.ones((resamples, self.size))
        for group in self.groups:
            n = len(group)
            if n > 1:
                drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
                weights[:, group] = 1 + (drawn - 1) * math.sqrt(n / (n - 1))
        return weights


@dataclass(frozen=True)
class _Error:
    size: float
    freedom: float


def _noise_factor(there: NDArray[np.bool_], shared: bool) -> _Factor:
    concepts, noises, _ = there.shape
    present = np.asarray(there.any(axis=2))
    if shared:
        return _Factor((np.flatnonzero(present.any(axis=0)),), noises)
    units = np.arange(concepts * noises).reshape(concepts, noises)
    return _Factor(tuple(units[c][present[c]] for c in range(concepts)), concepts * noises)


def _seed_factor(labels: Sequence[Hashable]) -> _Factor:
    groups = [
        np.array([i for i, label in enumerate(labels) if label == group])
        for group in dict.fromkeys(labels)
    ]
    return _Factor(tuple(groups), len(labels))


def _standard_error(
    residuals: NDArray[np.float64],
    noises: _Factor,
    seeds: _Factor,
    resamples: int,
    rng: np.random.Generator,
) -> _Error | None:
    concepts, per_concept, runs = residuals.shape
    if noises.freedom == 0:
        return None
    noise_weights = noises.weights(resamples, rng)
    seed_weights = seeds.weights(resamples, rng)
    if noises.size == concepts * per_concept:
        by_unit = residuals.reshape(concepts * per_concept, runs)
    else:
        by_unit = residuals.sum(axis=0)
    over_noises = (noise_weights @ by_unit.sum(axis=1)).var()
    over_seeds = (seed_weights @ by_unit.sum(axis=0)).var()
    over_both = ((noise_weights @ by_unit) * seed_weights).sum(axis=1).var()
    interaction = max(over_both - over_noises - over_seeds, 0.0)
    variance = max(over_noises + over_seeds - interaction, over_noises, over_seeds)
    if variance == 0:
        return _Error(0.0, 1.0)
    uncertainty = over_noises**2 / noises.freedom
    if seeds.freedom:
        uncertainty += over_seeds**2 / seeds.freedom
        uncertainty += interaction**2 / (noises.freedom * seeds.freedom)
    return _Error(math.sqrt(variance), max(variance**2 / uncertainty, 1.0))

"""Intervals and tests for deltas: paired by noise, noises crossed with erasure seeds."""

from __future__ import annotations

import bisect
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from erasekit.metrics.student import t_cdf, t_quantile
from erasekit.records import Estimate

RESAMPLES = 2000
LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class CrossedEffect:
    """A mean over concepts with the variance that noises and erasure seeds give it.

    Attributes:
        value: the mean; NaN where there is nothing.
        n, missing: values that went in, and that were not there.
        over_noises, over_seeds: variances of the mean when noises alone and seeds alone are drawn
            anew; each holds the interaction too. NaN where nothing can be resampled.
        interaction: variance from noises and seeds together.
        noise_freedom, seed_freedom: degrees of freedom.
        seeds: erasure seeds of an erased set, mean over sets.
    """

    value: float
    n: int
    missing: int
    over_noises: float = math.nan
    over_seeds: float = math.nan
    interaction: float = math.nan
    noise_freedom: int = 0
    seed_freedom: int = 0
    seeds: float = 0.0

    @property
    def variance(self) -> float:
        """Of the mean."""
        both = self.over_noises + self.over_seeds - self.interaction
        return max(both, self.over_noises, self.over_seeds)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the variance, 1 or more."""
        if self.variance == 0:
            return 1.0
        uncertainty = self.over_noises**2 / self.noise_freedom
        if self.seed_freedom:
            uncertainty += self.over_seeds**2 / self.seed_freedom
            uncertainty += self.interaction**2 / (self.noise_freedom * self.seed_freedom)
        return max(self.variance**2 / uncertainty, 1.0)

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The mean with its interval; limits are NaN where nothing can be resampled."""
        if math.isnan(self.variance):
            return Estimate(self.value, self.n, self.missing)
        reach = t_quantile((1 + level) / 2, self.freedom) * math.sqrt(self.variance)
        return Estimate(self.value, self.n, self.missing, self.value - reach, self.value + reach)

    def p_value(self) -> float:
        """Two-sided, for a mean of 0: below 5 % where the 95 % interval leaves 0 out.

        NaN where nothing can be resampled.
        """
        if math.isnan(self.variance) or math.isnan(self.value):
            return math.nan
        if self.variance == 0:
            return 1.0 if self.value == 0 else 0.0
        return 2 * t_cdf(-abs(self.value) / math.sqrt(self.variance), self.freedom)

    def with_seeds(self, seeds: int) -> CrossedEffect:
        """What the same variances would give with this many erasure seeds per set."""
        fewer = self.seeds / seeds
        interaction = self.interaction * fewer
        return replace(
            self,
            over_noises=max(self.over_noises - self.interaction, 0.0) + interaction,
            over_seeds=self.over_seeds * fewer,
            interaction=interaction,
            seed_freedom=round((self.seed_freedom / (self.seeds - 1)) * (seeds - 1)),
            seeds=float(seeds),
        )

    def seeds_needed(self, level: float = LEVEL, power: float = POWER) -> int | None:
        """Erasure seeds per set at which a test finds this mean with this power.

        It takes the mean and the variances for the truth, which they are not with few seeds, so
        the number is a rough one. More seeds don't average the noises away: where those alone
        hide the mean, or more than a thousand seeds would be needed, or one seed says nothing of
        the others, it is None.
        """

        def enough(seeds: int) -> bool:
            then = self.with_seeds(seeds)
            reach = t_quantile((1 + level) / 2, then.freedom) + t_quantile(power, then.freedom)
            return abs(self.value) >= reach * math.sqrt(then.variance)

        if not self.seed_freedom or math.isnan(self.variance) or not enough(MOST_SEEDS):
            return None
        return bisect.bisect_left(range(MOST_SEEDS), True, lo=2, key=enough)


def crossed_interval(
    deltas: NDArray[np.float64],
    *,
    strata: Sequence[Hashable] | None = None,
    noises: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The mean of a `crossed_effect` with its interval of coverage `level`; see there."""
    effect = crossed_effect(deltas, strata=strata, noises=noises, resamples=resamples, seed=seed)
    return effect.estimate(level)


def crossed_effect(
    deltas: NDArray[np.float64],
    *,
    strata: Sequence[Hashable] | None = None,
    noises: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> CrossedEffect:
    """Mean of the concepts' mean deltas, with its variance over noises and erasure seeds.

    Every noise met every seed, so both are resampled, independently of each other; the concepts
    are fixed, the interval says nothing about others. The spread of the resampled means gives the
    standard error (Owen's pigeonhole bootstrap, 2007), after two corrections that matter where
    there are few noises or seeds: resampled weights are stretched by sqrt(n / (n - 1)), because n
    drawn from n vary too little, and the interaction, which crossed resampling counts three
    times, is counted once. Student's t with Satterthwaite's degrees of freedom turns it into
    limits: two seeds that disagree make a wide interval. With one seed it is the paired t
    interval, and speaks about that one edit, not about the method.

    A concept that is kept in several erased sets starts from the same noises in each, and from the
    same image before the erasure, so its rows err alike. Rows that share their noises are one unit:
    their residuals are summed before noises are resampled, and their noises are counted once.

    In simulated worlds 95 % intervals cover 93 % to 98 % of the time; the worst case is two seeds
    that spread the mean about as much as the noises do, 89 %. Three seeds mend that.

    Args:
        deltas: [rows, noises, seeds], a row per concept, or per concept of each erased set; NaN
            where an image is missing.
        strata: which erased set each seed belongs to, where several are averaged; seeds are
            resampled inside their stratum.
        noises: a label per row of which noises it has; rows of the same label share noise i. None
            where every row has noises of its own.
        resamples: how many resampled means.
        seed: of the resampling; the same one gives the same interval.
    """
    there = ~np.isnan(deltas)
    kept = there.any(axis=(1, 2)) if deltas.size else np.zeros(len(deltas), dtype=bool)
    missing = int((~there).sum())
    if not kept.any():
        return CrossedEffect(math.nan, 0, missing)
    own: Sequence[Hashable] = range(len(deltas)) if noises is None else noises
    units = [own[row] for row in np.flatnonzero(kept).tolist()]
    deltas, there = deltas[kept], there[kept]
    filled = np.where(there, deltas, 0.0)
    counts = there.sum(axis=(1, 2))
    means = filled.sum(axis=(1, 2)) / counts
    mean, n = float(means.mean()), int(there.sum())
    # Each concept's residuals, scaled so that a weighted sum is that concept's error.
    residuals = np.where(there, filled - means[:, None, None], 0.0)
    residuals /= counts[:, None, None] * len(means)

    labels = list(strata) if strata is not None else [0] * deltas.shape[2]
    residuals, present = _by_unit(residuals, there, units)
    noise_factor, seed_factor = _noise_factor(present), _seed_factor(labels)
    found = CrossedEffect(
        mean,
        n,
        missing,
        noise_freedom=noise_factor.freedom,
        seed_freedom=seed_factor.freedom,
        seeds=seed_factor.size / len(seed_factor.groups),
    )
    if noise_factor.freedom == 0:
        return found
    rng = np.random.default_rng(seed)
    over_noises, over_seeds, interaction = _variances(
        residuals, noise_factor, seed_factor, resamples, rng
    )
    return replace(found, over_noises=over_noises, over_seeds=over_seeds, interaction=interaction)


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


def _by_unit(
    residuals: NDArray[np.float64], there: NDArray[np.bool_], units: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Residuals of rows that share their noises summed, and which noises any of them has.

    Returns:
        [units, noises, seeds] and [units, noises].
    """
    place = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    rows = np.array([place[unit] for unit in units])
    summed = np.zeros((len(place), *residuals.shape[1:]))
    np.add.at(summed, rows, residuals)
    present = np.zeros((len(place), residuals.shape[1]), dtype=bool)
    np.logical_or.at(present, rows, there.any(axis=2))
    return summed, present


def _noise_factor(present: NDArray[np.bool_]) -> _Factor:
    numbers = np.arange(present.size).reshape(present.shape)
    return _Factor(tuple(n[p] for n, p in zip(numbers, present, strict=True)), present.size)


def _seed_factor(labels: Sequence[Hashable]) -> _Factor:
    groups = [
        np.array([i for i, label in enumerate(labels) if label == group])
        for group in dict.fromkeys(labels)
    ]
    return _Factor(tuple(groups), len(labels))


def _variances(
    residuals: NDArray[np.float64],
    noises: _Factor,
    seeds: _Factor,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Over noises, over seeds, and their interaction; residuals are [units, noises, seeds]."""
    noise_weights = noises.weights(resamples, rng)
    seed_weights = seeds.weights(resamples, rng)
    by_noise = residuals.reshape(noises.size, seeds.size)
    over_noises = float((noise_weights @ by_noise.sum(axis=1)).var())
    over_seeds = float((seed_weights @ by_noise.sum(axis=0)).var())
    over_both = float(((noise_weights @ by_noise) * seed_weights).sum(axis=1).var())
    return over_noises, over_seeds, max(over_both - over_noises - over_seeds, 0.0)

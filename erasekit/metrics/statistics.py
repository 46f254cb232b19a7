"""Intervals and tests of paired differences, rates and ranks; noises are crossed with seeds."""

from __future__ import annotations

import bisect
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from erasekit.metrics.scores import Estimate, mean

COVERED = 0.975
"""Quantile of the upper limit of a 95 % interval."""
SIGNIFICANT = 0.05
"""Adjusted p values below it are significant."""
POWER, MOST_SEEDS = 0.8, 1000
EXACT = 14
"""With this many values or fewer, `sign_flip_test` enumerates all sign patterns."""
FLIPS = 20_000
"""Sign patterns that it draws where there are too many to enumerate."""


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Mean of the values that are there, NaN where none is, with counts and no interval."""
    present = sum(not math.isnan(value) for value in values)
    return Estimate(mean(values), present, len(values) - present)


@dataclass(frozen=True)
class CrossedEffect:
    """A mean over concepts with the variance that noises and erasure seeds give it.

    Attributes:
        value: the mean; NaN where there is nothing.
        n, missing: values that went in, and that were not there.
        over_noises, over_seeds: variances of the mean when noises alone and seeds alone are drawn
            anew; each holds the interaction too. NaN where nothing can be resampled.
        interaction: variance from noises and seeds together.
        noise_freedom, seed_freedom, interaction_freedom: degrees of freedom of the three.
        seeds: erasure seeds of an erased set, mean over sets.
    """

    value: float
    n: int
    missing: int
    over_noises: float = math.nan
    over_seeds: float = math.nan
    interaction: float = math.nan
    noise_freedom: float = 0.0
    seed_freedom: float = 0.0
    interaction_freedom: float = 0.0
    seeds: float = 0.0

    @property
    def variance(self) -> float:
        """Of the mean."""
        both = self.over_noises + self.over_seeds - self.interaction
        return max(both, self.over_noises, self.over_seeds)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the variance, 1 or more."""
        parts = (
            (self.over_noises, self.noise_freedom),
            (self.over_seeds, self.seed_freedom),
            (self.interaction, self.interaction_freedom),
        )
        uncertainty = sum(variance**2 / freedom for variance, freedom in parts if freedom)
        return max(self.variance**2 / uncertainty, 1.0) if uncertainty else 1.0

    def estimate(self) -> Estimate:
        """The mean with its 95 % interval; limits are NaN where nothing can be resampled."""
        if math.isnan(self.variance):
            return Estimate(self.value, self.n, self.missing)
        reach = float(stdtrit(self.freedom, COVERED)) * math.sqrt(self.variance)
        return Estimate(self.value, self.n, self.missing, self.value - reach, self.value + reach)

    def p_value(self) -> float:
        """Two-sided, for a mean of 0: below 5 % where the 95 % interval leaves 0 out.

        NaN where nothing can be resampled.
        """
        if math.isnan(self.variance) or math.isnan(self.value):
            return math.nan
        if self.variance == 0:
            return 1.0 if self.value == 0 else 0.0
        return 2 * float(stdtr(self.freedom, -abs(self.value) / math.sqrt(self.variance)))

    def with_seeds(self, seeds: int) -> CrossedEffect:
        """What the same variances would give with this many erasure seeds per set."""
        fewer, more = self.seeds / seeds, (seeds - 1) / (self.seeds - 1)
        interaction = self.interaction * fewer
        return replace(
            self,
            over_noises=max(self.over_noises - self.interaction, 0.0) + interaction,
            over_seeds=self.over_seeds * fewer,
            interaction=interaction,
            seed_freedom=self.seed_freedom * more,
            interaction_freedom=self.interaction_freedom * more,
            seeds=float(seeds),
        )

    def seeds_needed(self, level: float = 0.95) -> int | None:
        """Erasure seeds per set at which four tests of five at this level find this mean, roughly.

        None where the noises alone hide the mean, which more seeds don't average away, where
        more than a thousand would be needed, or where one seed says nothing of the others.
        """

        def enough(seeds: int) -> bool:
            then = self.with_seeds(seeds)
            reach = stdtrit(then.freedom, (1 + level) / 2) + stdtrit(then.freedom, POWER)
            return bool(abs(self.value) >= reach * math.sqrt(then.variance))

        if not self.seed_freedom or math.isnan(self.variance) or not enough(MOST_SEEDS):
            return None
        return bisect.bisect_left(range(MOST_SEEDS), True, lo=2, key=enough)


def crossed_interval(
    deltas: NDArray[np.float64],
    *,
    strata: Sequence[Hashable] | None = None,
    noises: Sequence[Hashable] | None = None,
) -> Estimate:
    """The mean of a `crossed_effect` with its 95 % interval; see there."""
    return crossed_effect(deltas, strata=strata, noises=noises).estimate()


def crossed_effect(
    deltas: NDArray[np.float64],
    *,
    strata: Sequence[Hashable] | None = None,
    noises: Sequence[Hashable] | None = None,
) -> CrossedEffect:
    """Mean of the concepts' mean deltas, with its variance over noises and erasure seeds.

    Noises and seeds are random factors, crossed; concepts are fixed. The variance is that of the
    two-way layout: over noises plus over seeds less their interaction, which both hold; it is also
    what Owen's pigeonhole bootstrap (2007) tends to with weights stretched by sqrt(n / (n - 1)).
    Student's t with Satterthwaite's (1946) degrees of freedom turns it into limits. Each concept's
    noises have a variance of their own, and each erased set's seeds (Welch, 1947). With one seed it
    is the paired t interval, and speaks about that one edit, not about the method.

    Rows that share their noises, as those of a concept that several erased sets keep, err alike
    and are one unit: their residuals are summed, and their noises are counted once.

    Args:
        deltas: [rows, noises, seeds], a row per concept, or per concept of each erased set; NaN
            where an image is missing.
        strata: which erased set each seed belongs to, where several are averaged; seeds vary
            inside their stratum.
        noises: a label per row of which noises it has; rows of the same label share noise i. None
            where every row has noises of its own.
    """
    there = ~np.isnan(deltas)
    counts = there.sum(axis=(1, 2))
    missing = deltas.size - int(counts.sum())
    if not counts.any():
        return CrossedEffect(math.nan, 0, missing)
    units: dict[Hashable, list[int]] = {}
    for row in np.flatnonzero(counts).tolist():
        units.setdefault(row if noises is None else noises[row], []).append(row)
    weights = 1 / np.maximum(counts, 1)[:, None, None]
    means = np.where(there, deltas, 0.0).sum(axis=(1, 2), keepdims=True) * weights
    # Each concept's residuals, scaled so that a weighted sum is that concept's error.
    rows = int((counts > 0).sum())
    residuals = np.where(there, deltas - means, 0.0) * weights / rows

    labels = list(strata) if strata is not None else [0] * deltas.shape[2]
    sets = [[i for i, label in enumerate(labels) if label == own] for own in dict.fromkeys(labels)]
    seeds = len(labels) / len(sets)
    mean = float(means.sum() / rows)
    found = CrossedEffect(mean, int(counts.sum()), missing, seeds=seeds)
    blocks = [  # of each unit, [noises, seeds]
        residuals[rows].sum(axis=0)[there[rows].any(axis=(0, 2))] for rows in units.values()
    ]
    over_noises = _components((block.sum(axis=1)[:, None] for block in blocks), seeds=False)
    if not over_noises[1]:
        return found
    by_seed = residuals.sum(axis=(0, 1))
    over_seeds = _components((by_seed[own][None] for own in sets), noises=False)
    both = _components(block[:, own] for block in blocks for own in sets)
    return replace(
        found,
        over_noises=over_noises[0],
        over_seeds=over_seeds[0],
        interaction=both[0],
        noise_freedom=over_noises[1],
        seed_freedom=over_seeds[1],
        interaction_freedom=both[1],
    )


def _components(
    blocks: Iterable[NDArray[np.float64]], *, noises: bool = True, seeds: bool = True
) -> tuple[float, float]:
    """Sum of the variances of blocks [noises, seeds] with Satterthwaite's degrees of freedom.

    (0, 0) without any; `noises` and `seeds` say which of the two vary.
    """
    total = uncertainty = plain = 0.0
    for block in blocks:
        scale = freedom = 1.0
        for axis in [axis for axis, varies in enumerate((noises, seeds)) if varies]:
            size = block.shape[axis]
            block = block - block.mean(axis=axis, keepdims=True)
            freedom *= size - 1
            scale *= size / max(size - 1, 1)
        if freedom:
            variance = scale * float((block**2).sum())
            total, plain = total + variance, plain + freedom
            uncertainty += variance**2 / freedom
    return total, total**2 / uncertainty if uncertainty else plain


def crossed_rate(
    successes: NDArray[np.float64],
    *,
    strata: Sequence[Hashable] | None = None,
    noises: Sequence[Hashable] | None = None,
) -> Estimate:
    """Share of images that succeed, with Wilson's interval for images that are not independent.

    Images of one noise, and of one erasure seed, succeed or fail together. The variance of a
    `crossed_effect` says how many independent images would tell as much: n* = p (1 - p) / variance,
    at most all images. Wilson's score interval (1927) of n* images with Student's t in place of the
    normal quantile follows (as Korn and Graubard, 1998, do for surveys); it stays within 0 and 1.
    Where all succeed, or all fail, no variance can be seen: then each starting noise counts as one
    image, however many seeds it met.

    Args:
        successes: [rows, noises, seeds] of 0, 1, or NaN where an image is missing.
        strata: as of `crossed_effect`.
        noises: as of `crossed_effect`.

    Returns:
        The mean over images; NaN without limits where there is none.
    """
    found = mean_estimate(successes.ravel().tolist())
    if not found.n:
        return found
    p = found.value
    effect = crossed_effect(successes, strata=strata, noises=noises)
    if effect.variance > 0 and 0 < p < 1:
        size = min(p * (1 - p) / effect.variance, float(found.n))
        quantile = float(stdtrit(effect.freedom, COVERED))
    else:
        there = np.argwhere((~np.isnan(successes)).any(axis=2)).tolist()
        drawn = {(row if noises is None else noises[row], noise) for row, noise in there}
        size = float(len(drawn))
        quantile = float(ndtri(COVERED))
    low, high = wilson(p, size, quantile)
    return replace(found, low=low, high=high)


def wilson(share: float, size: float, quantile: float) -> tuple[float, float]:
    """Limits of Wilson's score interval (1927) of a share of `size` independent draws."""
    square = quantile**2 / size
    centre = (share + square / 2) / (1 + square)
    reach = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return max(min(centre - reach, share), 0.0), min(max(centre + reach, share), 1.0)


def spearman(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Spearman's rank correlation over the pairs that are there, with a 95 % interval.

    The interval is Fisher's on artanh(r), with the variance (1 + r^2 / 2) / (n - 3) of Bonett and
    Wright (Psychometrika 65, 2000), which suits ranks.

    Returns:
        n counts pairs. NaN where there are fewer than three, or one side is constant; limits are
        NaN below four pairs.
    """
    from scipy.stats import spearmanr

    pairs = np.array([x, y], dtype=np.float64)
    there = pairs[:, ~np.isnan(pairs).any(axis=0)]
    n, missing = there.shape[1], len(x) - there.shape[1]
    if n < 3 or (there.min(axis=1) == there.max(axis=1)).any():
        return Estimate(math.nan, n, missing)
    r = min(max(float(spearmanr(*there).statistic), -1.0), 1.0)
    if n < 4:
        return Estimate(r, n, missing)
    if abs(r) == 1:
        return Estimate(r, n, missing, r, r)
    reach = float(ndtri(COVERED)) * math.sqrt((1 + r * r / 2) / (n - 3))
    return Estimate(
        r, n, missing, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)
    )


def sign_flip_test(values: Sequence[float] | NDArray[np.float64]) -> float:
    """One-sided p value for a mean above 0: how often it is as large with random signs.

    Valid where the values are independent and, without an effect, symmetric about 0. Exact for
    few values; else from drawn sign patterns with the observed one among them (Phipson and Smyth,
    2010), always the same ones. `scipy.stats.permutation_test` is far slower.

    Args:
        values: one per independent unit, such as a starting noise; NaN is left out.

    Returns:
        NaN where there is no value.
    """
    there = np.asarray(values, dtype=np.float64)
    there = there[~np.isnan(there)]
    if not len(there):
        return math.nan
    # Rounding must not tell apart two patterns whose sums are the same.
    bound = there.sum() - 1e-12 * np.abs(there).sum()
    return float((_signs(len(there)) @ there >= bound).mean())


def smallest_p(values: int) -> float:
    """The smallest p value that `sign_flip_test` can give for this many values."""
    return 2.0**-values if values <= EXACT else 1 / FLIPS


@cache
def _signs(values: int) -> NDArray[np.float64]:
    """Every pattern of signs, [2 ** values, values], or the observed and drawn ones."""
    if values <= EXACT:
        patterns = np.arange(2**values)[:, None] >> np.arange(values) & 1
        return np.asarray(1 - 2 * patterns, dtype=np.float64)
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(FLIPS, values))
    signs[0] = 1.0
    return signs


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for testing them together (Holm, 1979): it holds the family-wise error.

    NaN stays NaN and does not count.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for place, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - place)))
        adjusted[i] = largest
    return adjusted

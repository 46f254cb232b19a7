"""Methods against each other: paired differences of delta, and what they say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from erasekit.metrics.delta import Delta
from erasekit.metrics.significance import LEVEL, holm
from erasekit.metrics.statistics import CrossedEffect
from erasekit.records import Comparison, Paired, Record, Row

WEAKER = 0.05
"""A method whose ESR-1 is lower by more than this harms less for a reason that must be said."""


def compare_methods(
    rows: Sequence[Row], runs: Mapping[str, Sequence[Record]]
) -> tuple[Comparison, ...]:
    """Every pair of methods of one erased set (or of all), from what both have measured.

    Args:
        rows: the methods' rows, without the un-erased model's.
        runs: the records of each method.
    """
    pairs = [_Pair.of(a, b, runs) for a, b in itertools.combinations(rows, 2)]
    adjusted = holm([pair.effect.p_value() for pair in pairs])
    return tuple(pair.comparison(p, len(pairs)) for pair, p in zip(pairs, adjusted, strict=True))


def paired_difference(runs: Sequence[Record], others: Sequence[Record]) -> CrossedEffect:
    """delta(runs) - delta(others) over held-out concepts, from the erasures that both have done.

    What one method draws is held against what the other draws from the same noise; the un-erased
    model's images cancel out.

    Raises:
        ValueError: a concept was not drawn from the same prompt and noises.
    """
    counterparts = {(r.cell.erased, r.cell.seed): r for r in others if r.status == "done"}
    difference = Delta("held-out")
    for run in runs:
        other = counterparts.get((run.cell.erased, run.cell.seed))
        theirs = {c.concept: c for c in other.concepts} if other else {}
        for own in run.concepts:
            if own.concept in theirs:
                after = theirs[own.concept].after
                pair = Paired(own.concept, own.role, own.family, before=after, after=own.after)
                difference.update(pair, run.cell.seed, run.cell.erased)
    return difference.effect()


def mark_best(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[Row]:
    """`rows` of one erased set with the smallest delta marked, and what can't be told from it."""
    measured = [r for r in rows if r.method != "base" and not math.isnan(r.delta.value)]
    if len(measured) < 2:
        return list(rows)
    best = min(measured, key=lambda row: row.delta.value).method
    worse = {
        name
        for found in comparisons
        if best in (found.method, found.other) and found.p_value < LEVEL
        for name in (found.method, found.other)
    }
    names = {row.method for row in measured}
    return [
        replace(row, best=row.method == best, tied=row.method in names - worse - {best})
        for row in rows
    ]


@dataclass(frozen=True)
class _Pair:
    """The method that harms less, the other one, and the difference of their deltas."""

    method: Row
    other: Row
    effect: CrossedEffect

    @classmethod
    def of(cls, one: Row, two: Row, runs: Mapping[str, Sequence[Record]]) -> _Pair:
        effect = paired_difference(runs[one.method], runs[two.method])
        if effect.value > 0:
            return cls(two, one, replace(effect, value=-effect.value))
        return cls(one, two, effect)

    def comparison(self, p_value: float, pairs: int) -> Comparison:
        told = p_value < LEVEL
        needed = None if told else self.effect.seeds_needed(1 - LEVEL / pairs)
        return Comparison(
            self.method.method,
            self.other.method,
            self.method.erased,
            self.effect.estimate(),
            p_value,
            self._told() if told else self._not_told(needed),
            needed,
        )

    def _told(self) -> str:
        found = self.effect.estimate()
        verdict = (
            f"{self.method.method} harms less than {self.other.method}: "
            f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        )
        if self.effect.seeds == 1:
            verdict += " in these two edits (1 seed)"
        esr1, other = self.method.esr1.value, self.other.esr1.value
        if other - esr1 > WEAKER:
            verdict += f", and erases less: ESR-1 {100 * esr1:.0f} % against {100 * other:.0f} %"
        return verdict

    def _not_told(self, needed: int | None) -> str:
        one, two, seeds = self.method.method, self.other.method, self.effect.seeds
        if not self.effect.n:
            return f"{one} and {two} have no erasure seed and held-out concept in common"
        if not self.effect.noise_freedom:
            return f"{one} can't be told from {two} with one image per concept; draw more"
        remedy = f"about {needed} would be needed"
        if seeds == 1:
            remedy = "more are needed to say how many"
        elif needed is None:
            remedy = "more seeds alone would hardly do, more images per concept might"
        verdict = f"{one} can't be told from {two} at {seeds:.2g} seed{'' if seeds == 1 else 's'}"
        return f"{verdict}; {remedy}"

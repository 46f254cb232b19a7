"""Methods against each other: paired differences of delta, and what they say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from erasekit.metrics.delta import Delta
from erasekit.metrics.statistics import SIGNIFICANT, CrossedEffect, holm
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
    sides = [Side(row.method, row.esr1.value) for row in rows]
    return compare_sides(rows[0].erased, sides, runs) if rows else ()


def compare_sides(
    erased: str, sides: Sequence[Side], runs: Mapping[str, Sequence[Record]]
) -> tuple[Comparison, ...]:
    """Every pair of `sides`, methods on the set `erased` by their names in `runs`."""
    pairs = [_Pair.of(a, b, runs) for a, b in itertools.combinations(sides, 2)]
    adjusted = holm([pair.effect.p_value() for pair in pairs])
    return tuple(
        pair.comparison(erased, p, len(pairs)) for pair, p in zip(pairs, adjusted, strict=True)
    )


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
        for pair in paired_concepts(run, other) if other else ():
            difference.update(pair, run.cell.seed, run.cell.erased)
    return difference.effect()


def paired_concepts(run: Record, other: Record) -> Iterator[Paired]:
    """Each concept of both, with `other`'s images as before and `run`'s as after."""
    theirs = {concept.concept: concept.after for concept in other.concepts}
    for own in run.concepts:
        if own.concept in theirs:
            yield replace(own, before=theirs[own.concept])


def mark_best(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[Row]:
    """`rows` of one erased set with the smallest delta marked, and what can't be told from it."""
    measured = [r for r in rows if r.method != "base" and not math.isnan(r.delta.value)]
    if len(measured) < 2:
        return list(rows)
    best = min(measured, key=lambda row: row.delta.value).method
    worse = {
        name
        for found in comparisons
        if best in (found.method, found.other) and found.p_value < SIGNIFICANT
        for name in (found.method, found.other)
    }
    names = {row.method for row in measured}
    return [
        replace(row, best=row.method == best, tied=row.method in names - worse - {best})
        for row in rows
    ]


def verdict_of(one: Side, two: Side, effect: CrossedEffect, told: bool, pairs: int = 1) -> Verdict:
    """What a difference says, as a sentence, and how many seeds would say more.

    Args:
        one, two: what is compared.
        effect: delta(one) - delta(two), paired.
        told: whether it is significant.
        pairs: how many comparisons it was corrected for.
    """
    if effect.value > 0:
        one, two, effect = two, one, replace(effect, value=-effect.value)
    if told:
        return Verdict(_told(one, two, effect))
    needed = effect.seeds_needed(1 - SIGNIFICANT / pairs)
    return Verdict(_not_told(one, two, effect, needed), needed)


@dataclass(frozen=True)
class Side:
    """One of two that are compared: what it is called, and its ESR-1."""

    name: str
    esr1: float


@dataclass(frozen=True)
class Verdict:
    """A sentence, and the seeds that would tell apart what can't be told; None as `Comparison`."""

    text: str
    seeds_needed: int | None = None


@dataclass(frozen=True)
class _Pair:
    """The method that harms less, the other one, and the difference of their deltas."""

    one: Side
    two: Side
    effect: CrossedEffect

    @classmethod
    def of(cls, one: Side, two: Side, runs: Mapping[str, Sequence[Record]]) -> _Pair:
        effect = paired_difference(runs[one.name], runs[two.name])
        if effect.value > 0:
            return cls(two, one, replace(effect, value=-effect.value))
        return cls(one, two, effect)

    def comparison(self, erased: str, p_value: float, pairs: int) -> Comparison:
        verdict = verdict_of(self.one, self.two, self.effect, p_value < SIGNIFICANT, pairs)
        return Comparison(
            self.one.name,
            self.two.name,
            erased,
            self.effect.estimate(),
            p_value,
            verdict.text,
            verdict.seeds_needed,
        )


def _told(one: Side, two: Side, effect: CrossedEffect) -> str:
    found = effect.estimate()
    verdict = (
        f"{one.name} harms less than {two.name}: "
        f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
    )
    if effect.seeds == 1:
        verdict += " in these two edits (1 seed)"
    if two.esr1 - one.esr1 > WEAKER:
        before, after = 100 * one.esr1, 100 * two.esr1
        verdict += f", and erases less: ESR-1 {before:.0f} % against {after:.0f} %"
    return verdict


def _not_told(one: Side, two: Side, effect: CrossedEffect, needed: int | None) -> str:
    if not effect.n:
        return f"{one.name} and {two.name} have no erasure seed and held-out concept in common"
    if not effect.noise_freedom:
        return f"{one.name} can't be told from {two.name} with one image per concept; draw more"
    remedy = f"about {needed} would be needed"
    if effect.seeds == 1:
        remedy = "more are needed to say how many"
    elif needed is None:
        remedy = "more seeds alone would hardly do, more images per concept might"
    many = f"{effect.seeds:.2g} seed{'' if effect.seeds == 1 else 's'}"
    return f"{one.name} can't be told from {two.name} at {many}; {remedy}"

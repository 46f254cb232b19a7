"""Methods at the same strength of erasure, read off along their runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from erasekit.bench.comparisons import Side, compare_sides
from erasekit.metrics.delta import Delta
from erasekit.metrics.success_rates import ErasingSuccessRate
from erasekit.records import Comparison, Matched, Paired, Record, mean

TARGETS = (0.90, 0.95)
"""The ESR-1 at which methods are compared."""


def match_erasure(method: str, erased: str, runs: Sequence[Record]) -> list[Matched]:
    """Delta of a method where its runs first reach each of `TARGETS`.

    A run's points are the un-erased model, the steps along it that were scored, and its end. Of
    the first two neighbours that have the target between them, images' deltas are mixed in the
    share at which ESR-1, taken to grow evenly between the two, is the target. Then noises and
    seeds give the interval as they do for delta; that ESR-1 itself rests on few images is not in
    it, beyond what seeds differ in. Runs that don't reach a target are left out, and counted in
    the note.
    """
    done = [run for run in runs if run.status == "done"]
    scored = [_points(run) for run in done if run.along]
    return [_match(method, erased, target, done, scored) for target in TARGETS]


def compare_matched(erased: str, runs: Mapping[str, Sequence[Record]]) -> Iterator[Comparison]:
    """Every pair of methods of one erased set (or of all) at each of `TARGETS`.

    As `compare_methods`, but each run stands for itself where it first reaches the target, as in
    `match_erasure`: what one method's images score there is held against what the other's do, by
    concept, noise and seed. Only seeds that bring both there count, and the note says how many
    don't; a pair without any is left out. Holm's correction is over the pairs at one target.

    Args:
        runs: the records of each method.
    """
    for target in TARGETS:
        there = {method: _runs_at(target, own) for method, own in runs.items()}
        sides = [Side(method, target) for method in runs if there[method]]
        for found in compare_sides(erased, sides, there):
            if found.difference.n:
                done = _in_common(runs[found.method], runs[found.other])
                both = _in_common(there[found.method], there[found.other])
                less = f"{done - both} of {done} pairs of runs are not both there"
                difference = replace(found.difference, note=less if both < done else "")
                yield replace(found, esr1=target, difference=difference)


def _runs_at(target: float, runs: Sequence[Record]) -> list[Record]:
    """The runs that reach the target, with the scores that they have there."""
    scored = [run for run in runs if run.status == "done" and run.along]
    points = [_reached(_points(run).points, target) for run in scored]
    return [
        replace(run, concepts=point.concepts)
        for run, point in zip(scored, points, strict=True)
        if point is not None
    ]


def _in_common(runs: Sequence[Record], others: Sequence[Record]) -> int:
    """How many erasures, by set and seed, both have done."""
    one, two = (
        {(r.cell.erased, r.cell.seed) for r in own if r.status == "done"} for own in (runs, others)
    )
    return len(one & two)


@dataclass(frozen=True)
class _Point:
    """An erasure somewhere along its run."""

    step: float
    esr1: float
    concepts: tuple[Paired, ...]


@dataclass(frozen=True)
class _Run:
    erased: str
    seed: int
    points: tuple[_Point, ...]


def _points(run: Record) -> _Run:
    start = tuple(replace(concept, after=concept.before) for concept in run.concepts)
    stages = [(0, start), *((w.step, w.concepts) for w in run.along), (run.steps, run.concepts)]
    points = (_Point(step, _esr1(concepts), concepts) for step, concepts in stages)
    measured = tuple(point for point in points if not math.isnan(point.esr1))
    return _Run(run.cell.erased, run.cell.seed, measured)


def _esr1(concepts: Sequence[Paired]) -> float:
    rate = ErasingSuccessRate()
    for concept in concepts:
        rate.update(concept)
    return rate.compute().value


def _match(
    method: str, erased: str, target: float, done: Sequence[Record], runs: Sequence[_Run]
) -> Matched:
    delta, steps = Delta("held-out"), []
    early = late = unseen = 0
    for run in runs:
        point = _reached(run.points, target)
        if point is not None:
            steps.append(point.step)
            for concept in point.concepts:
                delta.update(concept, run.seed, run.erased)
        elif not run.points:
            unseen += 1
        elif run.points[0].esr1 >= target:
            early += 1
        else:
            late += 1
    reasons = (
        (len(done) - len(runs), "not scored along the way"),
        (unseen, "of what the base model does not draw"),
        (early, "there before the first step"),
        (late, "never there"),
    )
    note = ", ".join(f"{count} of {len(done)} runs {why}" for count, why in reasons if count)
    estimate = replace(delta.effect().estimate(), note=note or ("" if done else "no run is done"))
    return Matched(method, erased, target, estimate, mean(steps))


def _reached(points: Sequence[_Point], target: float) -> _Point | None:
    """Where a run first reaches the target, between two of its points; None where it doesn't."""
    for one, two in pairwise(points):
        if one.esr1 < target <= two.esr1:
            share = (target - one.esr1) / (two.esr1 - one.esr1)
            concepts = tuple(
                _mixed(a, b, share) for a, b in zip(one.concepts, two.concepts, strict=True)
            )
            return _Point(one.step + share * (two.step - one.step), target, concepts)
    return None


def _mixed(one: Paired, two: Paired, share: float) -> Paired:
    scores = tuple(
        (1 - share) * a + share * b for a, b in zip(one.after.scores, two.after.scores, strict=True)
    )
    return replace(two, after=replace(two.after, scores=scores))

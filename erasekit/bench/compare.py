"""Compare methods, also at the same strength of erasure, and two runs of one evaluation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from erasekit.bench.records import BASE, Comparison, Matched, Record, Row, with_common_splits
from erasekit.errors import ConfigError
from erasekit.metrics.base import Metric
from erasekit.metrics.delta import Delta
from erasekit.metrics.scores import ConceptScores, Estimate, Paired, mean, nan_to_null
from erasekit.metrics.statistics import SIGNIFICANT, CrossedEffect, holm
from erasekit.metrics.success_rates import ErasingSuccessRate

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
    pairs = []
    for one, two in itertools.combinations(sides, 2):
        effect = paired_difference(runs[one.name], runs[two.name])
        if effect.value > 0:
            one, two, effect = two, one, replace(effect, value=-effect.value)
        pairs.append((one, two, effect))
    adjusted = holm([effect.p_value() for *_, effect in pairs])
    found = []
    for (one, two, effect), p in zip(pairs, adjusted, strict=True):
        verdict = verdict_of(one, two, effect, p < SIGNIFICANT, len(pairs))
        found.append(
            Comparison(
                *(one.name, two.name, erased, effect.estimate(), p),
                verdict.text,
                verdict.seeds_needed,
            )
        )
    return tuple(found)


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
    points = (
        _Point(step, _over(ErasingSuccessRate(), [replace(run, concepts=own)]).value, own)
        for step, own in stages
    )
    measured = tuple(point for point in points if not math.isnan(point.esr1))
    return _Run(run.cell.erased, run.cell.seed, measured)


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


Pairs = list[tuple[Record, Record]]
"""Records of the same method, erased set and seed in A and in B."""


@dataclass(frozen=True)
class ConceptDifference:
    """A held-out concept whose delta differs significantly; B - A."""

    concept: str
    difference: Estimate
    p_value: float


@dataclass(frozen=True)
class Difference:
    """A method on an erased set in A and in B, from the erasure seeds that both have.

    Attributes:
        method, erased: the method ("one -> other" where they are two) and the erased set.
        seeds: erasure seeds in both.
        changed: what was asked for differently, by name: the values in A and in B.
        delta, esr1: in A and in B: mean delta over held-out concepts, ESR-1.
        delta_difference, esr1_difference: B - A, paired by concept, noise and seed.
        p_value: of the difference of delta, Holm-adjusted over all that differ.
        verdict: what it says, as a sentence.
        concepts: the held-out concepts that differ, Holm-adjusted among themselves, worst first.
    """

    method: str
    erased: str
    seeds: int
    changed: Mapping[str, tuple[Any, Any]]
    delta: tuple[Estimate, Estimate]
    esr1: tuple[Estimate, Estimate]
    delta_difference: Estimate
    esr1_difference: Estimate
    p_value: float
    verdict: str
    concepts: tuple[ConceptDifference, ...]


@dataclass(frozen=True)
class Differences:
    """All that differs between two runs.

    Attributes:
        differing: methods on erased sets whose images were scored differently.
        same: "method, erased" of those that have the same scores to the last digit.
        only_a, only_b: "method, erased, seed" of what one alone has finished.
    """

    differing: tuple[Difference, ...]
    same: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def compare_benches(
    a: Sequence[Record], b: Sequence[Record], names: tuple[str, str]
) -> Differences:
    """Hold B's records against A's, cell by cell.

    Args:
        a, b: the records of two benches.
        names: what errors call the two.

    Raises:
        ConfigError: they have no method or erased set in common, or were not measured alike.
    """
    _check_comparable(a, b, names)
    both = with_common_splits([*a, *b])
    a_cells, b_cells = (
        {_place(r): r for r in side if r.status == "done" and r.cell.method != BASE}
        for side in (both[: len(a)], both[len(a) :])
    )
    groups: dict[tuple[str, str], Pairs] = {}
    for place in a_cells:
        if place in b_cells:
            groups.setdefault(place[:2], []).append((a_cells[place], b_cells[place]))
    return compare_pairs(
        list(groups.values()),
        tuple(_named(place) for place in a_cells if place not in b_cells),
        tuple(_named(place) for place in b_cells if place not in a_cells),
    )


def compare_pairs(
    groups: Sequence[Pairs], only_a: tuple[str, ...] = (), only_b: tuple[str, ...] = ()
) -> Differences:
    """Hold each B against its A.

    Args:
        groups: per method and erased set, the finished erasures of A and B that belong together,
            measured on the same prompts and noises.
        only_a, only_b: as in `Differences`.
    """
    differing = [pairs for pairs in groups if not all(_scores_equal(*pair) for pair in pairs)]
    found = [_Compared.of(pairs) for pairs in differing]
    adjusted = holm([compared.effect.p_value() for compared in found])
    return Differences(
        tuple(c.difference(p, len(found)) for c, p in zip(found, adjusted, strict=True)),
        tuple(", ".join(_title(pairs)) for pairs in groups if pairs not in differing),
        only_a,
        only_b,
    )


def differences_json(found: Differences) -> dict[str, Any]:
    """JSON-ready (see docs/interface.md)."""
    data: dict[str, Any] = nan_to_null(
        {
            "differing": [
                {
                    "method": one.method,
                    "erased": one.erased,
                    "seeds": one.seeds,
                    "changed": one.changed,
                    "delta": [estimate.value for estimate in one.delta],
                    "esr1": [estimate.value for estimate in one.esr1],
                    "delta_difference": _estimate_json(one.delta_difference),
                    "esr1_difference": _estimate_json(one.esr1_difference),
                    "p_value": one.p_value,
                    "verdict": one.verdict,
                    "concepts": [
                        {
                            "concept": c.concept,
                            "difference": _estimate_json(c.difference),
                            "p_value": c.p_value,
                        }
                        for c in one.concepts
                    ],
                }
                for one in found.differing
            ],
            "same": found.same,
            "only_a": found.only_a,
            "only_b": found.only_b,
        }
    )
    return data


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": [estimate.low, estimate.high], "n": estimate.n}


@dataclass(frozen=True)
class _Compared:
    """The pairs of records of a method and erased set, with the difference of delta."""

    pairs: Pairs
    effect: CrossedEffect

    @classmethod
    def of(cls, pairs: Pairs) -> _Compared:
        return cls(pairs, paired_difference([b for _, b in pairs], [a for a, _ in pairs]))

    def difference(self, p_value: float, count: int) -> Difference:
        first, second = self.pairs[0]
        sides = [[pair[side] for pair in self.pairs] for side in (0, 1)]
        deltas = [_over(Delta("held-out"), runs) for runs in sides]
        rates = [_over(ErasingSuccessRate(), runs) for runs in sides]
        methods = first.cell.method, second.cell.method
        one, two = (
            Side(f"{method} in {run}", rate.value)
            for method, run, rate in zip(methods, "AB", rates, strict=True)
        )
        verdict = verdict_of(two, one, self.effect, p_value < SIGNIFICANT, count)
        return Difference(
            *_title(self.pairs),
            len(self.pairs),
            _changed(first, second),
            (deltas[0], deltas[1]),
            (rates[0], rates[1]),
            self.effect.estimate(),
            self._esr1_difference(),
            p_value,
            verdict.text,
            tuple(self._concepts()),
        )

    def _esr1_difference(self) -> Estimate:
        """Each image's being gone, as paired as its scores are."""
        difference = Delta("erased")
        for a, b in self.pairs:
            for pair in paired_concepts(a, b):
                gone = replace(pair, before=_gone(pair.before), after=_gone(pair.after))
                difference.update(gone, a.cell.seed, a.cell.erased)
        return difference.compute()

    def _concepts(self) -> Iterator[ConceptDifference]:
        deltas: dict[str, Delta] = {}
        for a, b in self.pairs:
            for pair in paired_concepts(b, a):
                if pair.split == "held-out":
                    delta = deltas.setdefault(pair.concept, Delta())
                    delta.update(pair, a.cell.seed, a.cell.erased)
        effects = {concept: delta.effect() for concept, delta in deltas.items()}
        adjusted = holm([effect.p_value() for effect in effects.values()])
        told = [(c, p) for c, p in zip(effects, adjusted, strict=True) if p < SIGNIFICANT]
        for concept, p in sorted(told, key=lambda item: -abs(effects[item[0]].value)):
            yield ConceptDifference(concept, effects[concept].estimate(), p)


def _gone(scores: ConceptScores) -> ConceptScores:
    """1 where an image is not of its concept's class, 0 where it is."""
    flags = tuple(math.nan if math.isnan(r) else float(r > 1) for r in scores.ranks)
    return replace(scores, scores=flags)


def _over(metric: Metric, runs: Sequence[Record]) -> Estimate:
    for run in runs:
        for concept in run.concepts:
            metric.update(concept, run.cell.seed, run.cell.erased)
    return metric.compute()


def _check_comparable(a: Sequence[Record], b: Sequence[Record], names: tuple[str, str]) -> None:
    for what, place in (("erased set", "erased"), ("method", "method")):
        own = [{getattr(r.cell, place) for r in side if r.cell.method != BASE} for side in (a, b)]
        if not own[0] & own[1]:
            has = "; ".join(
                f"{name!r} has {', '.join(sorted(found)) or 'none'}"
                for name, found in zip(names, own, strict=True)
            )
            raise ConfigError(f"There is no {what} in common to compare: {has}.")
    measured = [{r.cell.erased: _measured_by(r) for r in side} for side in (a, b)]
    reasons: dict[str, None] = {}
    for erased in measured[0].keys() & measured[1].keys():
        one, two = measured[0][erased], measured[1][erased]
        reasons.update(dict.fromkeys(_reason(k, one[k], two[k]) for k in one if one[k] != two[k]))
    if reasons:
        raise ConfigError(
            f"{names[0]!r} and {names[1]!r} can't be compared, since they differ in "
            f"{', '.join(sorted(reasons))}; measure both alike."
        )


def _measured_by(record: Record) -> dict[str, Any]:
    """All that must be the same for scores to be comparable, under the names that users know."""
    identity = record.cell.identity
    evaluation = identity["evaluation"]
    generation = evaluation["generation"]
    concepts = [concept for page in evaluation["concepts"] for concept in page]
    zero_shot = evaluation.get("classifier", evaluation["scorer"]) == evaluation["scorer"]
    return {
        "model": identity["model"] if "model" in identity else identity["erasure"]["model"],
        "suite": f"{evaluation['suite']} {evaluation['suite_version']}",
        "scorer": evaluation["scorer"],
        "classifier": None if zero_shot else evaluation["classifier"],
        "sampling steps": generation["num_inference_steps"],
        "guidance": generation["guidance_scale"],
        "sampler": generation["scheduler"],
        "autoencoder": generation["autoencoder"],
        "precision": generation["dtype"],
        "classes": evaluation["labels"],
        "prompts": sorted((c["concept"], c["prompt"]) for c in concepts),
        "images per concept": sorted((c["concept"], list(c["noises"])) for c in concepts),
    }


def _reason(what: str, one: Any, two: Any) -> str:
    """The name of what differs, with the values where they say something to a reader."""
    if what in ("scorer", "classifier"):
        one, two = (judge["name"] if judge else "zero-shot" for judge in (one, two))
        return f"{what} ({one} and {two})" if one != two else f"{what} (its weights or version)"
    if what in ("suite", "sampling steps", "guidance", "precision"):
        return f"{what} ({one} and {two})"
    return what


def _changed(a: Record, b: Record) -> dict[str, tuple[Any, Any]]:
    """What two erasures were asked for differently, and what code drew and scored their images."""
    one, two = _asked(a), _asked(b)
    keys = sorted(one.keys() | two.keys())
    return {k: (one.get(k), two.get(k)) for k in keys if one.get(k) != two.get(k)}


def _asked(record: Record) -> dict[str, Any]:
    identity = record.cell.identity
    erasure = dict(identity["erasure"])
    settings = erasure.pop("settings")
    evaluation = identity.get("evaluation", {})
    generation = evaluation.get("generation", {})
    code = {f"images: {k}": generation.get(k) for k in ("batch", "erasekit", "source")}
    code["scores: source"] = evaluation.get("scoring")
    return {**erasure, **settings, **code}


def _title(pairs: Pairs) -> tuple[str, str]:
    """The method, or both, and the erased set."""
    a, b = pairs[0]
    return " -> ".join(dict.fromkeys((a.cell.method, b.cell.method))), a.cell.erased


def _place(record: Record) -> tuple[str, str, int]:
    return record.cell.method, record.cell.erased, record.cell.seed


def _named(place: tuple[str, str, int]) -> str:
    return f"{place[0]}, {place[1]}, seed {place[2]}"


def _scores_equal(a: Record, b: Record) -> bool:
    def scores(record: Record) -> list[str]:
        return [repr((c.concept, c.after)) for c in record.concepts]  # NaN is NaN here

    return scores(a) == scores(b)

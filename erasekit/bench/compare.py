"""Compare methods, also at the same strength of erasure, and two runs of one evaluation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import PlainSerializer

from erasekit.bench.records import (
    BASE,
    Comparison,
    Matched,
    Record,
    Row,
    estimate_json,
    with_common_splits,
)
from erasekit.errors import ConfigError
from erasekit.metrics.base import Metric
from erasekit.metrics.delta import Delta
from erasekit.metrics.scores import Estimate, Number, Paired, Split, mean, nan_to_null
from erasekit.metrics.statistics import SIGNIFICANT, CrossedEffect, holm
from erasekit.metrics.success_rates import ErasingSuccessRate

WEAKER = 0.05
"""A method whose ESR-1 is lower by more than this harms less for a reason that must be said."""
TARGETS = (0.90, 0.95)
"""The ESR-1 at which methods are compared."""

Pairs = list[tuple[Record, Record]]
"""Finished erasures that belong together, measured on the same prompts and noises."""
Side = tuple[str, float]
"""What is compared: its name and its ESR-1."""


def estimate_over(metric: Metric, runs: Iterable[Record]) -> Estimate:
    """What `metric` gives for all concepts of `runs`."""
    for run in runs:
        for concept in run.concepts:
            metric.update(concept, run.cell.seed, run.cell.erased)
    return metric.compute()


def compare_methods(
    rows: Sequence[Row], runs: Mapping[str, Sequence[Record]]
) -> tuple[Comparison, ...]:
    """Every pair of methods of one erased set (or of all), from what both have measured."""
    return (
        _comparisons(rows[0].erased, [(r.method, r.esr1.value) for r in rows], runs) if rows else ()
    )


def _comparisons(
    erased: str, sides: Sequence[Side], runs: Mapping[str, Sequence[Record]]
) -> tuple[Comparison, ...]:
    pairs = [
        _less_harmful_first(one, two, paired_difference(runs[one[0]], runs[two[0]]))
        for one, two in itertools.combinations(sides, 2)
    ]
    adjusted = holm([effect.p_value() for *_, effect in pairs])
    return tuple(
        Comparison(
            *(one[0], two[0], erased, effect.estimate(), p),
            *_verdict(one, two, effect, p < SIGNIFICANT, len(pairs)),
        )
        for (one, two, effect), p in zip(pairs, adjusted, strict=True)
    )


def paired_difference(runs: Sequence[Record], others: Sequence[Record]) -> CrossedEffect:
    """delta(runs) - delta(others) over held-out concepts, from the erasures that both have done.

    What one method draws is held against what the other draws from the same noise; the un-erased
    model's images cancel out.

    Raises:
        ValueError: a concept was not drawn from the same prompt and noises.
    """
    counterparts = {(r.cell.erased, r.cell.seed): r for r in others if r.status == "done"}
    places = ((run, (run.cell.erased, run.cell.seed)) for run in runs)
    return _effect([(counterparts[at], run) for run, at in places if at in counterparts])


def _effect(pairs: Pairs, split: Split = "held-out") -> CrossedEffect:
    """The second ones' delta less the first ones', over concepts of this split."""
    difference = Delta(split)
    for first, second in pairs:
        for concept in _paired_concepts(first, second):
            difference.update(concept, second.cell.seed, second.cell.erased)
    return difference.effect()


def _paired_concepts(first: Record, second: Record) -> Iterator[Paired]:
    """Each concept of both, with what the first one draws as before, the second one as after."""
    before = {concept.concept: concept.after for concept in first.concepts}
    for own in second.concepts:
        if own.concept in before:
            yield replace(own, before=before[own.concept])


def mark_best(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[Row]:
    """`rows` of one erased set with the smallest delta marked, and what can't be told from it."""
    measured = [r for r in rows if r.method != BASE and not math.isnan(r.delta.value)]
    if len(measured) < 2:
        return list(rows)
    best = min(measured, key=lambda row: row.delta.value).method
    worse = {
        name
        for found in comparisons
        if best in (found.method, found.other) and found.p_value < SIGNIFICANT
        for name in (found.method, found.other)
    }
    tied = {row.method for row in measured} - worse - {best}
    return [replace(row, best=row.method == best, tied=row.method in tied) for row in rows]


def _less_harmful_first(
    one: Side, two: Side, effect: CrossedEffect
) -> tuple[Side, Side, CrossedEffect]:
    """The two with delta(one) - delta(two) turned so that it is not above 0."""
    if effect.value > 0:
        return two, one, replace(effect, value=-effect.value)
    return one, two, effect


def _verdict(
    one: Side, two: Side, effect: CrossedEffect, told: bool, pairs: int
) -> tuple[str, int | None]:
    """What a difference says as a sentence, and how many seeds would say more, as `Comparison`.

    Args:
        told: whether it is significant.
        pairs: how many comparisons it was corrected for.
    """
    (name, esr1), (other, other_esr1) = one, two
    if told:
        found = effect.estimate()
        text = f"{name} harms less than {other}: "
        text += f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        if effect.seeds == 1:
            text += " in these two edits (1 seed)"
        if other_esr1 - esr1 > WEAKER:
            text += f", and erases less: ESR-1 {100 * esr1:.0f} % against {100 * other_esr1:.0f} %"
        return text, None
    needed = effect.seeds_needed(1 - SIGNIFICANT / pairs)
    if not effect.n:
        return f"{name} and {other} have no erasure seed and held-out concept in common", needed
    if not effect.noise_freedom:
        text = f"{name} can't be told from {other} with one image per concept; draw more"
        return text, needed
    remedy = f"about {needed} would be needed"
    if effect.seeds == 1:
        remedy = "more are needed to say how many"
    elif needed is None:
        remedy = "more seeds alone would hardly do, more images per concept might"
    many = f"{effect.seeds:.2g} seed{'' if effect.seeds == 1 else 's'}"
    return f"{name} can't be told from {other} at {many}; {remedy}", needed


NOT_THERE = (
    "not scored along the way",
    "of what the base model does not draw",
    "there before the first step",
    "never there",
)
"""Why a run has no place where it first reaches a strength of erasure."""


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
    return [_match(method, erased, target, done) for target in TARGETS]


def _match(method: str, erased: str, target: float, done: Sequence[Record]) -> Matched:
    found = [_where_reached(run, target) for run in done]
    there = [place for place in found if not isinstance(place, str)]
    counts = {why: found.count(why) for why in NOT_THERE if why in found}
    note = ", ".join(f"{count} of {len(done)} runs {why}" for why, count in counts.items())
    delta = estimate_over(Delta("held-out"), [run for _, run in there])
    delta = replace(delta, note=note or ("" if done else "no run is done"))
    return Matched(method, erased, target, delta, mean([step for step, _ in there]))


def compare_matched(erased: str, runs: Mapping[str, Sequence[Record]]) -> Iterator[Comparison]:
    """Every pair of methods of one erased set (or of all) at each of `TARGETS`.

    As `compare_methods`, but each run stands for itself where it first reaches the target, as in
    `match_erasure`: what one method's images score there is held against what the other's do, by
    concept, noise and seed. Only seeds that bring both there count, and the note says how many
    don't; a pair without any is left out. Holm's correction is over the pairs at one target.
    """
    for target in TARGETS:
        there: dict[str, list[Record]] = {}
        for method, own in runs.items():
            places = (_where_reached(run, target) for run in own if run.status == "done")
            there[method] = [place[1] for place in places if not isinstance(place, str)]
        sides = [(method, target) for method in runs if there[method]]
        for found in _comparisons(erased, sides, there):
            if found.difference.n:
                done = _in_common(runs[found.method], runs[found.other])
                both = _in_common(there[found.method], there[found.other])
                less = f"{done - both} of {done} pairs of runs are not both there"
                difference = replace(found.difference, note=less if both < done else "")
                yield replace(found, esr1=target, difference=difference)


def _in_common(runs: Sequence[Record], others: Sequence[Record]) -> int:
    """How many erasures, by set and seed, both have done."""
    one, two = (
        {(r.cell.erased, r.cell.seed) for r in own if r.status == "done"} for own in (runs, others)
    )
    return len(one & two)


def _where_reached(run: Record, target: float) -> tuple[float, Record] | str:
    """The step where a run first reaches this ESR-1, and its scores there; or why it does not."""
    if not run.along:
        return NOT_THERE[0]
    start = tuple(replace(concept, after=concept.before) for concept in run.concepts)
    stages = [(0, start), *((w.step, w.concepts) for w in run.along), (run.steps, run.concepts)]
    points = [(step, replace(run, concepts=concepts)) for step, concepts in stages]
    rates = [estimate_over(ErasingSuccessRate(), [point]).value for _, point in points]
    if all(map(math.isnan, rates)):
        return NOT_THERE[1]
    known = [
        (*point, rate) for point, rate in zip(points, rates, strict=True) if not math.isnan(rate)
    ]
    if known[0][2] >= target:
        return NOT_THERE[2]
    for (step, one, rate), (next_step, two, next_rate) in itertools.pairwise(known):
        if rate < target <= next_rate:
            share = (target - rate) / (next_rate - rate)
            pairs = zip(one.concepts, two.concepts, strict=True)
            concepts = tuple(_mixed(a, b, share) for a, b in pairs)
            return step + share * (next_step - step), replace(run, concepts=concepts)
    return NOT_THERE[3]


def _mixed(one: Paired, two: Paired, share: float) -> Paired:
    scores = tuple(
        (1 - share) * a + share * b for a, b in zip(one.after.scores, two.after.scores, strict=True)
    )
    return replace(two, after=replace(two.after, scores=scores))


Value = Annotated[Estimate, PlainSerializer(lambda found: nan_to_null(found.value))]
Interval = Annotated[
    Estimate, PlainSerializer(lambda found: nan_to_null(estimate_json("value", found, "n")))
]


@dataclass(frozen=True)
class ConceptDifference:
    """A held-out concept whose delta differs significantly; B - A."""

    concept: str
    difference: Interval
    p_value: Number


@dataclass(frozen=True)
class Difference:
    """A method on an erased set in A and in B, from the erasure seeds that both have.

    Attributes:
        method: "one -> other" where they are two.
        changed: what was asked for differently, by name: the values in A and in B.
        delta, esr1: in A and in B, delta over held-out concepts.
        delta_difference, esr1_difference: B - A, paired by concept, noise and seed.
        p_value: of the difference of delta, Holm-adjusted over all that differ.
        concepts: the held-out concepts that differ, Holm-adjusted among themselves, worst first.
    """

    method: str
    erased: str
    seeds: int
    changed: Mapping[str, tuple[Any, Any]]
    delta: tuple[Value, Value]
    esr1: tuple[Value, Value]
    delta_difference: Interval
    esr1_difference: Interval
    p_value: Number
    verdict: str
    concepts: tuple[ConceptDifference, ...]


@dataclass(frozen=True)
class Differences:
    """All that differs between two runs; `to_json` writes it as in docs/interface.md.

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
    """Hold B's records against A's, cell by cell; `names` is what errors call the two.

    Raises:
        ConfigError: they have no method or erased set in common, or were not measured alike.
    """
    _check_comparable(a, b, names)
    both = with_common_splits([*a, *b])
    a_cells, b_cells = (
        {r.cell.name: r for r in side if r.status == "done" and r.cell.method != BASE}
        for side in (both[: len(a)], both[len(a) :])
    )
    groups: dict[tuple[str, str], Pairs] = {}
    for name, record in a_cells.items():
        if name in b_cells:
            group = groups.setdefault((record.cell.method, record.cell.erased), [])
            group.append((record, b_cells[name]))
    return compare_pairs(
        list(groups.values()),
        tuple(name for name in a_cells if name not in b_cells),
        tuple(name for name in b_cells if name not in a_cells),
    )


def compare_pairs(
    groups: Sequence[Pairs], only_a: tuple[str, ...] = (), only_b: tuple[str, ...] = ()
) -> Differences:
    """Hold each B against its A; a group is of one method and erased set."""
    same = [pairs for pairs in groups if all(_scores(a) == _scores(b) for a, b in pairs)]
    differing = [pairs for pairs in groups if pairs not in same]
    effects = [_effect(pairs) for pairs in differing]
    adjusted = holm([effect.p_value() for effect in effects])
    return Differences(
        tuple(
            _difference(pairs, effect, p, len(effects))
            for pairs, effect, p in zip(differing, effects, adjusted, strict=True)
        ),
        tuple(", ".join(_title(pairs)) for pairs in same),
        only_a,
        only_b,
    )


def _difference(pairs: Pairs, effect: CrossedEffect, p_value: float, count: int) -> Difference:
    first, second = pairs[0]
    a_runs, b_runs = [a for a, _ in pairs], [b for _, b in pairs]
    a_rate, b_rate = (estimate_over(ErasingSuccessRate(), runs) for runs in (a_runs, b_runs))
    a, b = (f"{first.cell.method} in A", a_rate.value), (f"{second.cell.method} in B", b_rate.value)
    gone = _effect([(_gone(one), _gone(two)) for one, two in pairs], "erased").estimate()
    verdict, _ = _verdict(*_less_harmful_first(b, a, effect), p_value < SIGNIFICANT, count)
    return Difference(
        *_title(pairs),
        len(pairs),
        _changed(first, second),
        (estimate_over(Delta("held-out"), a_runs), estimate_over(Delta("held-out"), b_runs)),
        (a_rate, b_rate),
        effect.estimate(),
        gone,
        p_value,
        verdict,
        tuple(_concept_differences(pairs)),
    )


def _gone(run: Record) -> Record:
    """A run whose images score 0 where they are not of their concept's class, 1 where they are.

    So that a loss of score is a gain of ESR-1.
    """

    def of_class(rank: float) -> float:
        return math.nan if math.isnan(rank) else float(rank <= 1)

    return replace(
        run,
        concepts=tuple(
            replace(c, after=replace(c.after, scores=tuple(map(of_class, c.after.ranks))))
            for c in run.concepts
        ),
    )


def _concept_differences(pairs: Pairs) -> Iterator[ConceptDifference]:
    deltas: dict[str, Delta] = {}
    for a, b in pairs:
        for concept in _paired_concepts(a, b):
            if concept.split == "held-out":
                delta = deltas.setdefault(concept.concept, Delta())
                delta.update(concept, b.cell.seed, b.cell.erased)
    effects = {concept: delta.effect() for concept, delta in deltas.items()}
    adjusted = holm([effect.p_value() for effect in effects.values()])
    told = [(c, p) for c, p in zip(effects, adjusted, strict=True) if p < SIGNIFICANT]
    for name, p in sorted(told, key=lambda item: -abs(effects[item[0]].value)):
        yield ConceptDifference(name, effects[name].estimate(), p)


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
    reasons: set[str] = set()
    for erased in measured[0].keys() & measured[1].keys():
        one, two = measured[0][erased], measured[1][erased]
        reasons |= {_reason(k, one[k], two[k]) for k in one if one[k] != two[k]}
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
    a, b = pairs[0]
    return " -> ".join(dict.fromkeys((a.cell.method, b.cell.method))), a.cell.erased


def _scores(record: Record) -> list[str]:
    return [repr((c.concept, c.after)) for c in record.concepts]  # NaN is NaN here

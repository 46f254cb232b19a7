"""Two runs of the same evaluation: what differs between them, and whether that can be told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from erasekit.bench.comparisons import Side, paired_concepts, paired_difference, verdict_of
from erasekit.bench.summary import with_common_roles
from erasekit.errors import ConfigError
from erasekit.metrics.delta import Delta
from erasekit.metrics.statistics import SIGNIFICANT, CrossedEffect, holm
from erasekit.metrics.success_rates import ErasingSuccessRate
from erasekit.records import ConceptScores, Estimate, Record, nan_to_null

BASE = "base"
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
    both = with_common_roles([*a, *b])
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
        deltas, rates = [_mean_delta(runs) for runs in sides], [_esr1(runs) for runs in sides]
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
                if pair.role == "held-out":
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


def _mean_delta(runs: Sequence[Record]) -> Estimate:
    delta = Delta("held-out")
    for run in runs:
        for concept in run.concepts:
            delta.update(concept, run.cell.seed, run.cell.erased)
    return delta.compute()


def _esr1(runs: Sequence[Record]) -> Estimate:
    rate = ErasingSuccessRate()
    for run in runs:
        for concept in run.concepts:
            rate.update(concept, run.cell.seed, run.cell.erased)
    return rate.compute()


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

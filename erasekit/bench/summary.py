"""Records to rows: one per method and erased set, one per method over all, one per concept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from erasekit.bench.comparisons import compare_methods, mark_best
from erasekit.bench.further import further_measures
from erasekit.bench.harm import FEW_SEEDS, harmed_share
from erasekit.bench.matched import compare_matched, match_erasure
from erasekit.bench.metrics import Metrics, metric_values
from erasekit.metrics.alignment import Alignment
from erasekit.metrics.base import Metric
from erasekit.metrics.delta import Delta
from erasekit.metrics.success_rates import ErasingSuccessRate, PreservingSuccessRate
from erasekit.records import (
    Comparison,
    ConceptRow,
    Estimate,
    Matched,
    Paired,
    Record,
    Row,
    Summary,
    mean,
)

OVERALL = "all"
"""`erased` of the rows over all erased sets."""


NO_METRICS: Metrics = {}


def summarise(records: Sequence[Record], metrics: Metrics = NO_METRICS) -> Summary:
    """Rows of `records`, methods and erased sets in the records' order.

    All methods are measured on the same concepts, see `with_common_roles`.

    Args:
        records: of a sweep.
        metrics: those of the suite's own, beside what every row has.
    """
    runs = with_common_roles(records)
    methods = list(dict.fromkeys(run.cell.method for run in runs))
    cases = list(dict.fromkeys(run.cell.erased for run in runs))
    groups = {
        (method, case): [r for r in runs if (r.cell.method, r.cell.erased) == (method, case)]
        for case in cases
        for method in methods
    }
    groups = {key: group for key, group in groups.items() if group}
    measured = {key: _concepts(*key, group) for key, group in groups.items()}
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    for case in cases:
        own = {method: group for (method, c), group in groups.items() if c == case}
        _add_set(case, own, {m: [measured[m, case]] for m in own}, rows, comparisons, metrics)
    overall: list[Row] = []
    if len(cases) > 1:
        by_method = {m: [r for r in runs if r.cell.method == m] for m in methods}
        found = {m: [own for (n, _), own in measured.items() if n == m] for m in methods}
        _add_set(OVERALL, by_method, found, overall, comparisons, metrics)
    failures = tuple(
        f"{r.cell.method}, {r.cell.erased}, seed {r.cell.seed}: {r.error}"
        for r in runs
        if r.status == "failed"
    )
    concept_rows = tuple(
        row for (method, _), own in measured.items() if method != "base" for row in own.rows
    )
    matched, matched_comparisons = _matched(groups)
    return Summary(
        tuple(rows),
        tuple(overall),
        concept_rows,
        failures,
        tuple(comparisons),
        matched,
        tuple(_notes(rows, matched)),
        matched_comparisons,
    )


def with_common_roles(records: Sequence[Record]) -> list[Record]:
    """`records` with the same held-out concepts for all that erase the same.

    One that any of them may have kept on purpose (it is in a method's concept space, or the user
    named it) counts as pool for all.
    """
    exposed: dict[str, set[str]] = {}
    for record in records:
        exposed.setdefault(record.cell.erased, set()).update(record.exposed)
    return [_with_roles(record, exposed[record.cell.erased]) for record in records]


def _rates() -> dict[str, Metric]:
    """The metrics of a row that average over images, by the row's field."""
    found: dict[str, Metric] = {
        "alignment_before": Alignment("before"),
        "alignment_after": Alignment("after"),
    }
    for k in (1, 5):
        found[f"esr{k}"], found[f"psr{k}"] = ErasingSuccessRate(k), PreservingSuccessRate(k)
        found[f"esr{k}_before"] = ErasingSuccessRate(k, "before")
        found[f"psr{k}_before"] = PreservingSuccessRate(k, "before")
    return found


def _matched(
    groups: Mapping[tuple[str, str], list[Record]],
) -> tuple[tuple[Matched, ...], tuple[Comparison, ...]]:
    """Methods at matched erasure, and between them, per erased set and over all.

    Empty where no run was scored along the way.
    """
    if not any(run.along for runs in groups.values() for run in runs):
        return (), ()
    sets: dict[str, dict[str, list[Record]]] = {}
    overall: dict[str, list[Record]] = {}
    for (method, erased), runs in groups.items():
        if method != "base":
            sets.setdefault(erased, {})[method] = runs
            overall.setdefault(method, []).extend(runs)
    if len(sets) > 1:
        sets[OVERALL] = overall
    matched = [
        found
        for erased, own in sets.items()
        for method, runs in own.items()
        for found in match_erasure(method, erased, runs)
    ]
    compared = [found for erased, own in sets.items() for found in compare_matched(erased, own)]
    return tuple(matched), tuple(compared)


@dataclass(frozen=True)
class _Concepts:
    """What a method cost each kept concept of an erased set, and how many it harmed."""

    rows: list[ConceptRow]
    harmed: Estimate


def _add_set(
    erased: str,
    runs: Mapping[str, list[Record]],
    concepts: Mapping[str, list[_Concepts]],
    rows: list[Row],
    comparisons: list[Comparison],
    metrics: Metrics,
) -> None:
    """Append the rows of an erased set, and the comparisons of its methods."""
    own = [_row(method, erased, runs[method], concepts[method], metrics) for method in runs]
    compared = compare_methods([row for row in own if row.method != "base"], runs)
    rows += mark_best(own, compared)
    comparisons += compared


def _row(
    method: str, erased: str, runs: list[Record], concepts: list[_Concepts], metrics: Metrics
) -> Row:
    done = [run for run in runs if run.status == "done"]
    rates = _rates()
    held, pool = Delta("held-out"), Delta("pool")
    for run in done:
        for concept in run.concepts:
            for metric in rates.values():
                metric.update(concept, run.cell.seed)
            for delta in (held, pool):
                delta.update(concept, run.cell.seed, run.cell.erased)
    means: dict[str, Any] = {name: metric.compute() for name, metric in rates.items()}
    base = method == "base"
    rows = [row for own in concepts for row in own.rows]
    held_out = [c for c in rows if c.role == "held-out" and not math.isnan(c.delta.value)]
    worst = max(held_out, key=lambda c: c.delta.value, default=None)
    return Row(
        method=method,
        erased=erased,
        **means,
        delta=held.compute(),
        delta_pool=pool.compute(),
        worst=None if worst is None or base else (worst.concept, worst.delta.value),
        seeds=0 if base else len({run.cell.seed for run in done}),
        failed=len(runs) - len(done),
        images=sum(_scored(concept) for run in done for concept in run.concepts),
        seconds=mean([run.seconds for run in done]),
        unet_passes=mean([float(run.unet_passes) for run in done]),
        harmed=None if base else _pooled_harm([own.harmed for own in concepts]),
        measures=further_measures(done),
        metrics=metric_values(metrics, done),
    )


def _concepts(method: str, erased: str, runs: list[Record]) -> _Concepts:
    deltas: dict[str, tuple[Paired, Delta]] = {}
    for run in runs:
        for concept in run.concepts:
            if concept.role in ("held-out", "pool"):
                _, delta = deltas.setdefault(concept.concept, (concept, Delta(role=None)))
                delta.update(concept, run.cell.seed)
    harmed, p_values = harmed_share(
        {
            name: delta.table()[0][0]
            for name, (concept, delta) in deltas.items()
            if concept.role == "held-out"
        }
    )
    rows = [
        ConceptRow(
            method,
            erased,
            name,
            concept.role,
            concept.family,
            delta.compute(),
            p_values.get(name, math.nan),
        )
        for name, (concept, delta) in deltas.items()
    ]
    return _Concepts(rows, harmed)


def _pooled_harm(shares: Sequence[Estimate]) -> Estimate:
    """Over erased sets, each concept of each set counted once."""
    tested = sum(share.n for share in shares)
    missing = sum(share.missing for share in shares)
    notes = dict.fromkeys(share.note for share in shares if share.note)
    if not tested:
        return Estimate(math.nan, 0, missing, note="; ".join(notes))
    harmed = sum(share.value * share.n for share in shares if share.n)
    return Estimate(harmed / tested, tested, missing, note="; ".join(notes))


def _notes(rows: Sequence[Row], matched: Sequence[Matched]) -> Iterator[str]:
    """Sentences on what the numbers can't say."""
    rates: dict[str, None] = {}
    for found in matched:
        if found.delta.note:
            yield (
                f"Matched erasure: {found.method}, {found.erased}, ESR-1 {100 * found.esr1:.0f} %: "
                f"{found.delta.note}."
            )
    for row in rows:
        for k, rate in ((1, row.esr1), (5, row.esr5)):
            if rate.note:
                rates[f"ESR-{k}, {row.erased}: {rate.note}."] = None
    yield from rates
    measured = [e for row in rows for by in row.measures.values() for e in by.values()]
    measured += [found.estimate for row in rows for found in row.metrics.values()]
    for note in dict.fromkeys(e.note for e in measured if e.note):
        yield f"{note}."
    for note in dict.fromkeys(row.harmed.note for row in rows if row.harmed and row.harmed.note):
        yield f"Harmed concepts: {note}."
    seeds = [row.seeds for row in rows if row.harmed and row.harmed.n]
    if seeds and min(seeds) < FEW_SEEDS:
        many = "seed" if min(seeds) == 1 else "seeds"
        yield (
            f"Harmed concepts: with {min(seeds)} erasure {many}, this is about these edits, not "
            "about the method."
        )


def _with_roles(record: Record, exposed: set[str]) -> Record:
    def with_roles(concepts: Sequence[Paired]) -> tuple[Paired, ...]:
        return tuple(
            replace(c, role="pool") if c.role == "held-out" and c.concept in exposed else c
            for c in concepts
        )

    along = tuple(replace(w, concepts=with_roles(w.concepts)) for w in record.along)
    return replace(record, concepts=with_roles(record.concepts), along=along)


def _scored(concept: Paired) -> int:
    return sum(not math.isnan(score) for score in concept.after.scores)

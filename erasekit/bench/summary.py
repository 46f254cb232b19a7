"""Records to rows: one per method and erased set, one per method over all, one per concept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from erasekit.metrics.alignment import Alignment
from erasekit.metrics.delta import Delta
from erasekit.metrics.esr import ErasingSuccessRate
from erasekit.metrics.psr import PreservingSuccessRate
from erasekit.records import ConceptRow, Paired, Record, Row, Summary, mean, nan_to_null

OVERALL = "all"
"""`erased` of the rows over all erased sets."""


def summarise(records: Sequence[Record]) -> Summary:
    """Rows of `records`, methods and erased sets in the records' order.

    A held-out concept that one of the methods may have kept on purpose (it is in that method's
    concept space, or the user named it) counts as pool for all of them, so that all are measured
    on the same concepts.
    """
    exposed: dict[str, set[str]] = {}
    for record in records:
        exposed.setdefault(record.cell.erased, set()).update(record.exposed)
    runs = [_with_roles(record, exposed[record.cell.erased]) for record in records]
    methods = list(dict.fromkeys(run.cell.method for run in runs))
    cases = list(dict.fromkeys(run.cell.erased for run in runs))
    groups = {
        (method, case): [r for r in runs if (r.cell.method, r.cell.erased) == (method, case)]
        for case in cases
        for method in methods
    }
    groups = {key: group for key, group in groups.items() if group}
    per_concept = {key: _concept_rows(*key, group) for key, group in groups.items()}
    rows = [
        _row(method, case, group, per_concept[method, case])
        for (method, case), group in groups.items()
    ]
    overall = []
    for method in methods if len(cases) > 1 else ():
        all_runs = [r for r in runs if r.cell.method == method]
        concepts = [c for (m, _), found in per_concept.items() if m == method for c in found]
        overall.append(_row(method, OVERALL, all_runs, concepts))
    failures = tuple(
        f"{r.cell.method}, {r.cell.erased}, seed {r.cell.seed}: {r.error}"
        for r in runs
        if r.status == "failed"
    )
    concept_rows = tuple(
        row for (method, _), found in per_concept.items() if method != "base" for row in found
    )
    return Summary(tuple(rows), tuple(overall), concept_rows, failures)


def summary_json(summary: Summary) -> dict[str, Any]:
    """`rows`, `overall`, `per_concept` and `failures`, JSON-ready (see docs/interface.md)."""
    data: dict[str, Any] = nan_to_null(
        {
            "rows": [_row_json(row) for row in summary.rows],
            "overall": [_row_json(row) for row in summary.overall],
            "per_concept": [
                {
                    "method": row.method,
                    "erased": row.erased,
                    "concept": row.concept,
                    "family": row.family,
                    "split": row.role,
                    "delta": row.delta.value,
                    "ci95": [row.delta.low, row.delta.high],
                    "n": row.delta.n,
                }
                for row in summary.per_concept
            ],
            "failures": list(summary.failures),
        }
    )
    return data


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "method": row.method,
        "erased": row.erased,
        "esr1": row.esr1.value,
        "psr1": row.psr1.value,
        "alignment_before": row.alignment_before.value,
        "alignment_after": row.alignment_after.value,
        "delta_mean": row.delta.value,
        "delta_ci95": [row.delta.low, row.delta.high],
        "delta_pool_mean": row.delta_pool.value,
        "delta_pool_ci95": [row.delta_pool.low, row.delta_pool.high],
        "delta_worst": list(row.worst) if row.worst else None,
        "seeds": row.seeds,
        "failed": row.failed,
        "images": row.images,
        "missing": row.delta.missing + row.delta_pool.missing + row.esr1.missing,
        "seconds": row.seconds,
        "unet_passes": row.unet_passes,
    }


@dataclass(frozen=True)
class _Measures:
    """The metrics of one row, each fed with every record."""

    before: Alignment
    after: Alignment
    esr: ErasingSuccessRate
    psr: PreservingSuccessRate
    held_out: Delta
    pool: Delta

    @classmethod
    def of(cls, runs: Iterable[Record]) -> _Measures:
        found = cls(
            Alignment("before"),
            Alignment("after"),
            ErasingSuccessRate(),
            PreservingSuccessRate(),
            Delta("held-out"),
            Delta("pool"),
        )
        for run in runs:
            for concept in run.concepts:
                for metric in (found.before, found.after, found.esr, found.psr):
                    metric.update(concept, run.cell.seed)
                for delta in (found.held_out, found.pool):
                    delta.update(concept, run.cell.seed, run.cell.erased)
        return found


def _row(method: str, erased: str, runs: list[Record], concepts: list[ConceptRow]) -> Row:
    done = [run for run in runs if run.status == "done"]
    measures = _Measures.of(done)
    base = method == "base"
    held_out = [c for c in concepts if c.role == "held-out" and not math.isnan(c.delta.value)]
    worst = max(held_out, key=lambda c: c.delta.value, default=None)
    return Row(
        method=method,
        erased=erased,
        alignment_before=measures.before.compute(),
        alignment_after=measures.after.compute(),
        esr1=measures.esr.compute(),
        psr1=measures.psr.compute(),
        delta=measures.held_out.compute(),
        delta_pool=measures.pool.compute(),
        worst=None if worst is None or base else (worst.concept, worst.delta.value),
        seeds=0 if base else len({run.cell.seed for run in done}),
        failed=len(runs) - len(done),
        images=sum(_scored(concept) for run in done for concept in run.concepts),
        seconds=mean([run.seconds for run in done]),
        unet_passes=mean([float(run.unet_passes) for run in done]),
    )


def _concept_rows(method: str, erased: str, runs: list[Record]) -> list[ConceptRow]:
    deltas: dict[str, tuple[Paired, Delta]] = {}
    for run in runs:
        for concept in run.concepts:
            if concept.role != "erased":
                _, delta = deltas.setdefault(concept.concept, (concept, Delta(role=None)))
                delta.update(concept, run.cell.seed)
    return [
        ConceptRow(method, erased, name, concept.role, concept.family, delta.compute())
        for name, (concept, delta) in deltas.items()
    ]


def _with_roles(record: Record, exposed: set[str]) -> Record:
    concepts = tuple(
        replace(c, role="pool") if c.role == "held-out" and c.concept in exposed else c
        for c in record.concepts
    )
    return replace(record, concepts=concepts)


def _scored(concept: Paired) -> int:
    return sum(not math.isnan(score) for score in concept.after.scores)

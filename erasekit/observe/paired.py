"""What the observations share: one set of concepts for several erasures, and paired contrasts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erasekit.bench.runner import BASE, BenchmarkRunner
from erasekit.bench.suite import Suite
from erasekit.bench.sweep import Sweep
from erasekit.concepts import Erasure
from erasekit.errors import ConceptError, TrainingError
from erasekit.metrics.alignment import Alignment
from erasekit.metrics.delta import Delta
from erasekit.metrics.statistics import crossed_interval
from erasekit.metrics.success_rates import ErasingSuccessRate
from erasekit.observe.findings import Strength
from erasekit.records import Estimate, Record

ONE_SEED = "With one erasure seed the intervals speak of these edits, not of the method."


def common_suite(suite: Suite, erasures: Sequence[Erasure], more: Iterable[str] = ()) -> Suite:
    """`suite` with the same kept concepts in every case, so that erasures can be paired.

    These are its spread, the near neighbours of everything that is erased, and `more`, without
    what any of the erasures erases.

    Args:
        suite: already without concepts that do not fit the tokenizer.
        erasures: all cases.
        more: further names of the suite's world.

    Raises:
        ConceptError: no concept is left.
    """
    stays = set.intersection(*(suite.stays(erasure) for erasure in erasures))
    names = {c.name for c in suite.concepts if not suite.spread or c.name in suite.spread}
    for erasure in erasures:
        names |= {c.name for c in suite.near_neighbours(erasure, stays, suite.near)}
    names |= set(more)
    kept = tuple(c.name for c in suite.concepts if c.name in names & stays)
    if not kept:
        raise ConceptError(
            f"Erasing {', '.join(e.label for e in erasures)} leaves no concept of the suite "
            f"{suite.name!r} to evaluate; choose a larger one with --suite."
        )
    return replace(suite, spread=kept, near=0, cases=(), kept={})


def measured(runner: BenchmarkRunner, sweep: Sweep) -> list[Record]:
    """The records of a sweep, case by case and seed by seed; cells in the store do not run again.

    Raises:
        TrainingError: a cell failed. What was finished is kept, and a second call tries again.
    """
    records = runner.run(sweep, runner.plan(sweep, retry_failed=True))
    records = [record for record in records if record.cell.method != BASE]
    for record in records:
        if record.status == "failed":
            raise TrainingError(
                f"Erasing {record.cell.erased!r} by {record.cell.method}, seed "
                f"{record.cell.seed}, failed ({record.error}); mend that and give the same "
                "command again, finished parts are kept."
            )
    return records


def kept_words(record: Record) -> tuple[str, ...]:
    """The words that the erasure of a record was told to keep."""
    return tuple(record.cell.identity["erasure"]["erasure"]["keep"])


def delta_table(records: Iterable[Record], concepts: Sequence[str]) -> NDArray[np.float64]:
    """Deltas of one erasure, [concepts, noises, seeds], in the order given; NaN where missing."""
    delta = Delta(role=None)
    for record in records:
        found = {paired.concept: paired for paired in record.concepts}
        for name in concepts:
            delta.update(found[name], record.cell.seed)
    return delta.table()[0]


def contrast(*parts: tuple[NDArray[np.float64], float]) -> Estimate:
    """Weighted sum of means over concepts, with an interval over noises and erasure seeds.

    A mean weighs every concept alike. Differences of two erasures are taken before, table minus
    table, so that they are paired by noise and seed. See `crossed_interval` for the interval.

    Args:
        parts: a table [concepts, noises, seeds] and the weight of its mean, each with concepts
            of its own.

    Returns:
        NaN where a part has no value at all.
    """
    scaled, total = [], 0
    for table, weight in parts:
        there = table[~np.isnan(table).all(axis=(1, 2))] if table.size else table[:0]
        if not len(there):
            return Estimate(np.nan, 0, sum(int(np.isnan(t).sum()) for t, _ in parts))
        scaled.append((there, weight / len(there)))
        total += len(there)
    rows = np.concatenate([table * weight * total for table, weight in scaled])
    return replace(
        crossed_interval(rows), missing=sum(int(np.isnan(table).sum()) for table, _ in parts)
    )


def strength_of(records: Iterable[Record]) -> Strength:
    """How far the erasures of `records` got."""
    before, after, esr = Alignment("before"), Alignment("after"), ErasingSuccessRate()
    for record in records:
        for paired in record.concepts:
            for metric in (before, after, esr):
                metric.update(paired, record.cell.seed)
    return Strength(before.compute(), after.compute(), esr.compute())


def signed(estimate: Estimate) -> str:
    """`+1.20 [0.40, 2.00]`: a value with its interval where it has one."""
    if math.isnan(estimate.value):
        return "an unknown amount"
    limits = estimate.interval
    value = f"{round(estimate.value, 2) + 0.0:+.2f}"
    if limits is None:
        return f"{value} (no interval)"
    return f"{value} [{limits[0] + 0.0:.2f}, {limits[1] + 0.0:.2f}]"


def settings_of(records: Iterable[Record]) -> dict[str, Any]:
    """The resolved hyperparameters of the erasures, by method."""
    return {r.cell.method: dict(r.cell.identity["erasure"]["settings"]) for r in records}

"""Sum records up: a row per method and erased set, one per method over all, one per concept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erasekit.attacks.results import success_rate
from erasekit.bench.compare import (
    compare_matched,
    compare_methods,
    estimate_over,
    mark_best,
    match_erasure,
)
from erasekit.bench.records import (
    BASE,
    Comparison,
    ConceptRow,
    Matched,
    MetricValue,
    Record,
    Row,
    Summary,
    estimate_json,
    with_common_splits,
)
from erasekit.errors import ErasekitError, PluginError
from erasekit.metrics.alignment import Alignment
from erasekit.metrics.base import Metric
from erasekit.metrics.delta import Delta
from erasekit.metrics.scores import Estimate, Paired, Split, mean, nan_to_null
from erasekit.metrics.statistics import (
    EXACT,
    SIGNIFICANT,
    holm,
    mean_estimate,
    sign_flip_test,
    smallest_p,
)
from erasekit.metrics.success_rates import ErasingSuccessRate, PreservingSuccessRate
from erasekit.plugin.registry import Registry

OVERALL = "all"
"""`erased` of the rows over all erased sets."""
CLIP_SCORE = "clip-score"
"""Mean alignment of captions with their images, 100 * cosine."""
FEW_SEEDS = 5

Metrics = Mapping[str, Callable[[], Metric]]
"""What makes a metric of the suite's own, by its registered name."""
NO_METRICS: Metrics = {}
Costs = tuple[list[ConceptRow], Estimate]
"""What a method cost each kept concept of an erased set, and the share that it harmed."""


def summarise(
    records: Sequence[Record], metrics: Metrics = NO_METRICS, remarks: Iterable[str] = ()
) -> Summary:
    """Rows of `records`, methods and erased sets in the records' order.

    All methods are measured on the same concepts, see `with_common_splits`.

    Args:
        metrics: those of the suite's own, beside what every row has.
        remarks: notes of the sweep, which follow those on its numbers.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for run in with_common_splits(records):
        groups.setdefault(run.cell.erased, {}).setdefault(run.cell.method, []).append(run)
    methods = dict.fromkeys(run.cell.method for run in records)
    sets = {erased: {m: own[m] for m in methods if m in own} for erased, own in groups.items()}
    costs = {
        (erased, method): _costs(erased, method, runs)
        for erased, own in sets.items()
        for method, runs in own.items()
    }

    comparisons: list[Comparison] = []

    def rows_of(erased: str, runs: Mapping[str, list[Record]]) -> list[Row]:
        rows = []
        for method, own in runs.items():
            attacked = own if method != BASE else [r for group in runs.values() for r in group]
            parts = [c for (e, m), c in costs.items() if m == method and erased in (e, OVERALL)]
            row = _row(method, erased, own, parts, metrics)
            found = _attacks(attacked, "unerased" if method == BASE else "success")
            rows.append(replace(row, metrics={**row.metrics, **found}))
        compared = compare_methods([row for row in rows if row.method != BASE], runs)
        comparisons.extend(compared)
        return mark_best(rows, compared)

    rows = [row for erased, runs in sets.items() for row in rows_of(erased, runs)]
    overall: list[Row] = []
    if len(sets) > 1:
        sets[OVERALL] = {m: [r for own in groups.values() for r in own.get(m, ())] for m in methods}
        overall = rows_of(OVERALL, sets[OVERALL])
    matched, matched_comparisons = _matched(sets)
    return Summary(
        tuple(rows),
        tuple(overall),
        tuple(row for (_, m), (own, _) in costs.items() if m != BASE for row in own),
        tuple(f"{run.cell.name}: {run.error}" for run in records if run.status == "failed"),
        tuple(comparisons),
        matched,
        (*_notes(rows, matched), *remarks),
        matched_comparisons,
    )


def _matched(
    sets: Mapping[str, Mapping[str, list[Record]]],
) -> tuple[tuple[Matched, ...], tuple[Comparison, ...]]:
    """Methods at matched erasure, and between them; empty where no run was scored along the way."""
    runs = {e: {m: own for m, own in sets[e].items() if m != BASE} for e in sets}
    if not any(run.along for own in runs.values() for group in own.values() for run in group):
        return (), ()
    return (
        tuple(f for e, own in runs.items() for m in own for f in match_erasure(m, e, own[m])),
        tuple(found for e, own in runs.items() for found in compare_matched(e, own)),
    )


def _costs(erased: str, method: str, runs: list[Record]) -> Costs:
    deltas: dict[str, tuple[Paired, Delta]] = {}
    for run in runs:
        for concept in run.concepts:
            if concept.split in ("held-out", "pool"):
                _, delta = deltas.setdefault(concept.concept, (concept, Delta(split=None)))
                delta.update(concept, run.cell.seed)
    harmed, p_values = harmed_share(
        {
            name: delta.table()[0][0]
            for name, (concept, delta) in deltas.items()
            if concept.split == "held-out"
        }
    )
    rows = [
        ConceptRow(
            *(method, erased, name, concept.split, concept.family),
            delta.compute(),
            p_values.get(name, math.nan),
        )
        for name, (concept, delta) in deltas.items()
    ]
    return rows, harmed


def _row(
    method: str, erased: str, runs: list[Record], costs: Sequence[Costs], metrics: Metrics
) -> Row:
    done = [run for run in runs if run.status == "done"]
    own: dict[str, Metric] = {
        "alignment_before": Alignment("before"),
        "alignment_after": Alignment("after"),
        "delta": Delta("held-out"),
        "delta_pool": Delta("pool"),
    }
    for k in (1, 5):
        own[f"esr{k}"], own[f"psr{k}"] = ErasingSuccessRate(k), PreservingSuccessRate(k)
        own[f"esr{k}_before"] = ErasingSuccessRate(k, "before")
        own[f"psr{k}_before"] = PreservingSuccessRate(k, "before")
    found: dict[str, Any] = {name: estimate_over(metric, done) for name, metric in own.items()}
    base = method == BASE
    concepts = [row for rows, _ in costs for row in rows if row.split == "held-out"]
    known = [row for row in concepts if not math.isnan(row.delta.value)]
    worst = max(known, key=lambda row: row.delta.value, default=None)
    scores = [s for run in done for concept in run.concepts for s in concept.after.scores]
    return Row(
        method=method,
        erased=erased,
        **found,
        worst=None if worst is None or base else (worst.concept, worst.delta.value),
        seeds=0 if base else len({run.cell.seed for run in done}),
        failed=len(runs) - len(done),
        images=mean_estimate(scores).n,
        seconds=mean([run.seconds for run in done]),
        unet_passes=mean([float(run.unet_passes) for run in done]),
        harmed=None if base else _pooled_harm([harmed for _, harmed in costs]),
        measures=_measures(done),
        metrics={name: _value(name, make, done) for name, make in metrics.items()},
    )


def _attacks(runs: Sequence[Record], what: str) -> dict[str, MetricValue]:
    """Share of targets that draw the concept under each attack, by "ASR NAME"."""
    found = {}
    for name in dict.fromkeys(name for run in runs for name in run.attacks):
        own = {
            (r.cell.erased, 0 if what == "unerased" else r.cell.seed): r.attacks.get(name, ())
            for r in runs
        }
        rate = success_rate(own, what)
        if not rate.n:
            rate = replace(rate, note=f"{name} could not attack; `erasekit attack` says why")
        found[f"ASR {name}"] = MetricValue(rate, False)
    return found


def _value(name: str, make: Callable[[], Metric], runs: Sequence[Record]) -> MetricValue:
    """A suite's own metric; where it fails NaN with a note, so that nothing drawn is lost by it."""
    metric = make()
    try:
        estimate = estimate_over(metric, runs)
    except Exception as fault:  # a plugin's metric may fail in any way
        note = f"The metric {name!r} failed: {type(fault).__name__}: {fault}"
        estimate = Estimate(math.nan, 0, note=note)
    return MetricValue(estimate, metric.higher_is_better)


def _measures(runs: Sequence[Record]) -> dict[str, dict[Split, Estimate]]:
    """Further measures after the erasures: means over images; of sets, over erasures."""
    values: dict[str, dict[Split, list[float]]] = {}
    sets: dict[str, list[Estimate]] = {}
    for run in runs:
        for concept in run.concepts:
            found = dict(concept.after.measures)
            if concept.split == "caption":
                found[CLIP_SCORE] = concept.after.scores
            for name, own in found.items():
                values.setdefault(name, {}).setdefault(concept.split, []).extend(own)
        for name, estimate in run.sets.items():
            sets.setdefault(name, []).append(estimate)
    means = {
        name: {split: mean_estimate(own) for split, own in by_split.items()}
        for name, by_split in values.items()
    }
    of_sets: dict[str, dict[Split, Estimate]] = {
        name: {"caption": _pooled(mean([one.value for one in own]), own)}
        for name, own in sets.items()
    }
    return {**means, **of_sets}


def _pooled(value: float, parts: Sequence[Estimate]) -> Estimate:
    """A value that was made of `parts`, with their counts and notes."""
    notes = dict.fromkeys(part.note for part in parts if part.note)
    n, missing = sum(part.n for part in parts), sum(part.missing for part in parts)
    return Estimate(value, n, missing, note="; ".join(notes))


def _pooled_harm(shares: Sequence[Estimate]) -> Estimate:
    """Over erased sets, each concept of each set counted once."""
    tested = sum(share.n for share in shares)
    harmed = sum(share.value * share.n for share in shares if share.n)
    return _pooled(harmed / tested if tested else math.nan, shares)


def harmed_share(deltas: Mapping[str, NDArray[np.float64]]) -> tuple[Estimate, dict[str, float]]:
    """The share of concepts that are significantly harmed, and each one's adjusted p value.

    Per concept a one-sided sign-flip test of its deltas, one per noise and averaged over erasure
    seeds, then Holm's correction over the concepts. Seeds are not resampled: what is found is
    found of these edits.

    Args:
        deltas: per concept, [noises, seeds]; NaN where an image is missing.

    Returns:
        The share with the number of concepts tested, and of those that could not be. NaN, with
        the reason as its note, where even a concept that is harmed at every noise would not be
        significant; no p values then.
    """
    by_noise = {name: _over_seeds(values) for name, values in deltas.items()}
    tested = {name: values for name, values in by_noise.items() if len(values)}
    noises = max(map(len, tested.values()), default=0)
    if not tested:
        return Estimate(math.nan, 0, len(deltas), note="no held-out concept was measured"), {}
    if smallest_p(noises) * len(tested) >= SIGNIFICANT:
        return Estimate(math.nan, 0, len(deltas), note=_too_few(noises, len(tested))), {}
    adjusted = holm([sign_flip_test(values) for values in tested.values()])
    share = sum(p < SIGNIFICANT for p in adjusted) / len(tested)
    estimate = Estimate(share, len(tested), len(deltas) - len(tested))
    return estimate, dict(zip(tested, adjusted, strict=True))


def _over_seeds(deltas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over seeds of the noises that have a value, [noises]."""
    return np.asarray(np.nanmean(deltas[~np.isnan(deltas).all(axis=1)], axis=1))


def _too_few(noises: int, concepts: int) -> str:
    enough = (n for n in range(noises + 1, EXACT + 2) if smallest_p(n) * concepts < SIGNIFICANT)
    needed = next(enough, None)
    remedy = f"{needed} would be the fewest" if needed else "there are too many concepts to test"
    plural = "s" if concepts > 1 else ""
    return f"too few images per concept ({noises}) to test {concepts} concept{plural}; {remedy}"


def _notes(rows: Sequence[Row], matched: Sequence[Matched]) -> Iterator[str]:
    """Sentences on what the numbers can't say, each once."""
    for found in matched:
        if found.delta.note:
            yield (
                f"Matched erasure: {found.method}, {found.erased}, ESR-1 {100 * found.esr1:.0f} %: "
                f"{found.delta.note}."
            )
    said = [
        f"ESR-{k}, {row.erased}: {rate.note}."
        for row in rows
        for k, rate in ((1, row.esr1), (5, row.esr5))
        if rate.note
    ]
    measured = [e for row in rows for by in row.measures.values() for e in by.values()]
    measured += [found.estimate for row in rows for found in row.metrics.values()]
    said += [f"{e.note}." for e in measured if e.note]
    said += [f"Harmed concepts: {r.harmed.note}." for r in rows if r.harmed and r.harmed.note]
    yield from dict.fromkeys(said)
    seeds = [row.seeds for row in rows if row.harmed and row.harmed.n]
    if seeds and min(seeds) < FEW_SEEDS:
        many = "seed" if min(seeds) == 1 else "seeds"
        yield (
            f"Harmed concepts: with {min(seeds)} erasure {many}, this is about these edits, not "
            "about the method."
        )


def load_metrics(names: Iterable[str], registry: Registry) -> dict[str, Callable[[], Metric]]:
    """The registered metrics of these names.

    Raises:
        UnknownNameError: a name that is not registered.
        PluginError: what is registered can't be made, or is no `Metric`.
    """
    return {name: _maker(name, registry) for name in names}


def summarise_stored(
    records: Sequence[Record], about: Mapping[str, Any], registry: Registry
) -> Summary:
    """`summarise` with the metrics that a manifest lists, and a note for each that is not here."""
    metrics, left_out = {}, []
    for name in about.get("metrics", ()):
        try:
            metrics[name] = _maker(name, registry)
        except ErasekitError as error:
            left_out.append(f"The metric {name!r} is left out: {error}")
    return summarise(records, metrics, (*left_out, *about.get("remarks", ())))


def _maker(name: str, registry: Registry) -> Callable[[], Metric]:
    descriptor = registry.metric(name)
    target = descriptor.load()

    def make() -> Metric:
        metric = target(**descriptor.options)
        if not isinstance(metric, Metric):
            raise TypeError(f"it gives {metric!r}, which is no Metric")
        return metric

    try:
        make().higher_is_better  # noqa: B018 - a metric that does not say is broken
    except Exception as fault:  # a plugin's metric may fail in any way
        raise PluginError(
            f"The metric {name!r} points at {descriptor.target!r}, which can't be used "
            f"({type(fault).__name__}: {fault}); mend or uninstall its plugin."
        ) from fault
    return make


COMPARED = "method other erased difference note p_value seeds_needed verdict"


def summary_json(summary: Summary) -> dict[str, Any]:
    """All of it, JSON-ready (see docs/interface.md)."""
    data: dict[str, Any] = nan_to_null(
        {
            "rows": [_row_json(row) for row in summary.rows],
            "overall": [_row_json(row) for row in summary.overall],
            "per_concept": [
                _flat(row, "method erased concept family split delta p_harmed")
                for row in summary.per_concept
            ],
            "comparisons": [_flat(found, COMPARED) for found in summary.comparisons],
            "matched": [_flat(m, "method erased esr1 delta note step") for m in summary.matched],
            "matched_comparisons": [
                _flat(found, f"esr1 {COMPARED}") for found in summary.matched_comparisons
            ],
            "notes": summary.notes,
            "failures": summary.failures,
        }
    )
    return data


def _flat(row: Any, names: str) -> dict[str, Any]:
    """These attributes of a row, an estimate with its interval and count; "note" is its note."""
    data: dict[str, Any] = {}
    note = None
    for name in names.split():
        value = note if name == "note" else getattr(row, name)
        if isinstance(value, Estimate):
            data |= estimate_json(name, value, "n")
            note = value.note or None
        else:
            data[name] = value
    return data


def _row_json(row: Row) -> dict[str, Any]:
    """Of a row; the order of its keys is that of columns in a CSV file."""
    harmed = row.harmed or Estimate(math.nan, 0)
    rates = {name: getattr(row, name) for name in ("esr1", "esr5", "psr1", "psr5")}
    data = {**_flat(row, "method erased"), **{name: rate.value for name, rate in rates.items()}}
    for name, rate in rates.items():
        data[f"{name}_ci95"] = [rate.low, rate.high]
        data[f"{name}_before"] = getattr(row, f"{name}_before").value
    data["esr1_note"] = row.esr1.note or None
    data |= {name: getattr(row, name).value for name in ("alignment_before", "alignment_after")}
    for name, delta in (("delta", row.delta), ("delta_pool", row.delta_pool)):
        data |= {f"{name}_mean": delta.value, f"{name}_ci95": [delta.low, delta.high]}
    return {
        **data,
        "delta_worst": row.worst,
        **_flat(row, "seeds failed images"),
        "missing": row.delta.missing + row.delta_pool.missing + row.esr1.missing,
        **_flat(row, "seconds unet_passes"),
        "harmed": harmed.value,
        "harmed_n": harmed.n,
        "harmed_note": harmed.note or None,
        **_flat(row, "best tied"),
        "measures": {
            name: {
                split: {"mean": e.value, "n": e.n, "missing": e.missing} for split, e in by.items()
            }
            for name, by in row.measures.items()
        },
        "metrics": {
            name: {
                **estimate_json("value", found.estimate, "n"),
                "note": found.estimate.note or None,
                "missing": found.estimate.missing,
                "higher_is_better": found.higher_is_better,
            }
            for name, found in row.metrics.items()
        },
    }

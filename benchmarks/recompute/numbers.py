"""ESR-k, PSR-k, alignment, delta and means of further measures, from scores and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.recompute.records import NAN, Run

Numbers = dict[tuple[str, str, str], float]
"""(method, erased, what) -> value; NaN where there is none."""
ALL = "all"


def numbers_of(runs: Sequence[Run]) -> Numbers:
    """Of every method and erased set, of every method over all sets, of every kept concept."""
    found: Numbers = {}
    sets = list(dict.fromkeys(run.erased for run in runs))
    groups = [(erased, [run for run in runs if run.erased == erased]) for erased in sets]
    for erased, group in (*groups, *([(ALL, list(runs))] if len(sets) > 1 else [])):
        for method in dict.fromkeys(run.method for run in group):
            own = [run for run in group if run.method == method]
            for what, value in _row(own).items():
                found[method, erased, what] = value
            if erased != ALL and method != "base":
                for concept, delta in _deltas(own, ("held-out", "pool")).items():
                    found[method, erased, f"delta of {concept[1]}"] = delta
    return found


def reported(data: dict[str, Any]) -> Numbers:
    """The same of what `erasekit bench show --json` says."""
    found: Numbers = {}
    names = {
        **{f"{rate}{k}": f"{rate.upper()}-{k}" for rate in ("esr", "psr") for k in (1, 5)},
        "delta_mean": "delta",
        "delta_pool_mean": "delta, pool",
        "alignment_before": "alignment before",
        "alignment_after": "alignment after",
    }
    for row in (*data["rows"], *data["overall"]):
        place = row["method"], row["erased"]
        for field, what in names.items():
            found[*place, what] = _float(row[field])
        for name, by_role in row["measures"].items():
            for role, estimate in by_role.items():
                found[*place, f"{name}, {role}"] = _float(estimate["mean"])
    for row in data["per_concept"]:
        found[row["method"], row["erased"], f"delta of {row['concept']}"] = _float(row["delta"])
    return found


def _row(runs: Sequence[Run]) -> dict[str, float]:
    def values(role: str, side: str, what: str) -> np.ndarray[Any, Any]:
        sides = [getattr(c, side) for run in runs for c in run.concepts if c.role == role]
        return np.array([v for s in sides for v in getattr(s, what)])

    kept = values("held-out", "after", "ranks")
    gone = [concept for run in runs for concept in run.concepts if concept.role == "erased"]
    row = {
        "alignment before": _mean(values("erased", "before", "scores")),
        "alignment after": _mean(values("erased", "after", "scores")),
        "delta": _mean(_deltas(runs, ("held-out",)).values()),
        "delta, pool": _mean(_deltas(runs, ("pool",)).values()),
    }
    for k in (1, 5):
        ranks = np.array([r for c in gone if _drawn(c.before.ranks, k) for r in c.after.ranks])
        row[f"ESR-{k}"] = _mean(np.where(np.isnan(ranks), NAN, ranks > k))
        row[f"PSR-{k}"] = _mean(np.where(np.isnan(kept), NAN, kept <= k))
    sides = [(c.role, c.after) for run in runs for c in run.concepts]
    for name, role in dict.fromkeys((n, role) for role, side in sides for n in side.measures):
        own = [v for r, side in sides if r == role for v in side.measures.get(name, ())]
        row[f"{name}, {role}"] = _mean(own)
    captions = values("caption", "after", "scores")
    if len(captions):
        row["clip-score, caption"] = _mean(captions)
    for name in dict.fromkeys(name for run in runs for name in run.sets):
        row[f"{name}, caption"] = _mean(run.sets[name] for run in runs if name in run.sets)
    return row


def _drawn(ranks: Sequence[float], k: int) -> bool:
    """Whether the base model draws a concept: in a quarter of its images or more."""
    known = [rank for rank in ranks if not np.isnan(rank)]
    return sum(rank <= k for rank in known) >= len(known) / 4


def _deltas(runs: Sequence[Run], roles: Sequence[str]) -> dict[tuple[str, str], float]:
    """Mean loss of alignment of each concept of each erased set, over noises and erasure seeds."""
    losses: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for c in run.concepts:
            if c.role in roles:
                loss = np.subtract(c.before.scores, c.after.scores)
                losses.setdefault((run.erased, c.concept), []).extend(loss)
    return {key: _mean(own) for key, own in losses.items()}


def _mean(values: Iterable[float]) -> float:
    there = [value for value in values if not np.isnan(value)]
    return float(np.mean(there)) if there else NAN


def _float(value: float | None) -> float:
    return NAN if value is None else float(value)

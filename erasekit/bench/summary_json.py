"""A summary as plain data, as `--json` prints it and exports read it."""

from __future__ import annotations

from typing import Any

from erasekit.records import Comparison, Estimate, Row, Summary, nan_to_null


def summary_json(summary: Summary) -> dict[str, Any]:
    """All of it, JSON-ready (see docs/interface.md)."""
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
                    "p_harmed": row.p_harmed,
                }
                for row in summary.per_concept
            ],
            "comparisons": [_comparison_json(found) for found in summary.comparisons],
            "matched": [
                {
                    "method": found.method,
                    "erased": found.erased,
                    "esr1": found.esr1,
                    **_estimate_json("delta", found.delta),
                    "step": found.step,
                }
                for found in summary.matched
            ],
            "matched_comparisons": [
                {"esr1": found.esr1, **_comparison_json(found)}
                for found in summary.matched_comparisons
            ],
            "notes": summary.notes,
            "failures": summary.failures,
        }
    )
    return data


def _estimate_json(name: str, estimate: Estimate) -> dict[str, Any]:
    return {
        name: estimate.value,
        "ci95": [estimate.low, estimate.high],
        "n": estimate.n,
        "note": estimate.note or None,
    }


def _comparison_json(found: Comparison) -> dict[str, Any]:
    return {
        "method": found.method,
        "other": found.other,
        "erased": found.erased,
        **_estimate_json("difference", found.difference),
        "p_value": found.p_value,
        "seeds_needed": found.seeds_needed,
        "verdict": found.verdict,
    }


def _row_json(row: Row) -> dict[str, Any]:
    harmed = row.harmed
    return {
        "method": row.method,
        "erased": row.erased,
        "esr1": row.esr1.value,
        "esr5": row.esr5.value,
        "psr1": row.psr1.value,
        "psr5": row.psr5.value,
        **{
            f"{rate}_{what}": value
            for rate in ("esr1", "esr5", "psr1", "psr5")
            for own in (getattr(row, rate),)
            for what, value in (
                ("ci95", [own.low, own.high]),
                ("before", getattr(row, f"{rate}_before").value),
            )
        },
        "esr1_note": row.esr1.note or None,
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
        "harmed": harmed.value if harmed else None,
        "harmed_n": harmed.n if harmed else 0,
        "harmed_note": (harmed.note or None) if harmed else None,
        "best": row.best,
        "tied": row.tied,
        "measures": {
            name: {
                role: {"mean": e.value, "n": e.n, "missing": e.missing} for role, e in by.items()
            }
            for name, by in row.measures.items()
        },
        "metrics": {
            name: {
                **_estimate_json("value", found.estimate),
                "missing": found.estimate.missing,
                "higher_is_better": found.higher_is_better,
            }
            for name, found in row.metrics.items()
        },
    }

"""The tables of one benchmark on a report's page."""

from __future__ import annotations

from erasekit.records import Summary
from erasekit.reporting.parts import parts_view
from erasekit.reporting.views import (
    TableView,
    bench_view,
    comparisons_view,
    concepts_view,
    matched_view,
)


def bench_tables(summary: Summary) -> dict[str, TableView]:
    """By the names that the page's template knows; what there is nothing of is left out."""
    tables = {"bench": bench_view(summary)}
    if summary.comparisons:
        tables["comparisons"] = comparisons_view(summary.comparisons)
    if summary.matched:
        tables["matched"] = matched_view(summary.matched)
    if summary.matched_comparisons:
        tables["between_matched"] = comparisons_view(summary.matched_comparisons)
    if parts := parts_view(summary):
        tables["parts"] = parts
    if summary.per_concept:
        methods = list(dict.fromkeys(row.method for row in summary.rows))
        tables["concepts"] = concepts_view(summary.per_concept, methods)
    return tables

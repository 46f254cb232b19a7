"""Columns of further measures and metrics: whatever is beside alignment, delta and classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from erasekit.records import Estimate, Row
from erasekit.reporting.columns import Column
from erasekit.reporting.wording import DOWN, MISSING, UP, number, percent, with_interval
from erasekit.scores import NOTHING

CLIP_SCORE, FID, LPIPS, NER = "clip-score", "fid", "lpips", "ner-"
DISTANCE = "clip-distance"
_ORDER = (FID, CLIP_SCORE, LPIPS, DISTANCE, "ner-0.5", NER, "")
_TITLES = {CLIP_SCORE: "CLIP score", FID: "FID", LPIPS: "LPIPS", DISTANCE: "distance"}


def shown(measures: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names and roles of what has a column, each once, what is asked for most first.

    What counts single parts, "NAME/PART", is left to the files and to `parts_view`.
    """

    def place(key: tuple[str, str]) -> int:
        return next(i for i, start in enumerate(_ORDER) if key[0].startswith(start))

    return sorted((key for key in dict.fromkeys(measures) if "/" not in key[0]), key=place)


def further_columns(rows: Iterable[Row]) -> list[Column]:
    """A column per further measure and role that a row has, and per metric of the suite's own."""
    rows = tuple(rows)
    keys = shown((name, role) for row in rows for name, own in row.measures.items() for role in own)
    metrics = {name: one.higher_is_better for row in rows for name, one in row.metrics.items()}
    return [
        *(_column(name, role) for name, role in keys),
        *(_metric_column(name, higher) for name, higher in metrics.items()),
    ]


def title(name: str, role: str) -> str:
    """What a measure's column is called."""
    rate = name.startswith(NER)
    plain = f"NER {name.removeprefix(NER)}" if rate else _TITLES.get(name, name)
    return f"{plain}\n{role}"


def good(name: str, role: str) -> str:
    """The direction that is good, or "" where that isn't known."""
    if name == CLIP_SCORE or (name in (LPIPS, DISTANCE) and role == "erased"):
        return UP
    return DOWN if name in (FID, LPIPS, DISTANCE) or name.startswith(NER) else ""


def written(name: str, value: float | None) -> str:
    """A measure's mean as a table has it."""
    if value is None or math.isnan(value):
        return MISSING
    return percent(value) if name.startswith(NER) else number(value, 3 if name == LPIPS else 2)


def found(row: Mapping[str, Any], name: str, role: str) -> float | None:
    """The mean of a measure in a row of `--json`, or None."""
    mean = row.get("measures", {}).get(name, {}).get(role, {}).get("mean")
    return None if mean is None else float(mean)


def _metric_column(name: str, higher: bool) -> Column:
    def estimate(row: Row) -> Estimate:
        return row.metrics[name].estimate if name in row.metrics else NOTHING

    def text(row: Row) -> str:
        found = estimate(row)
        return with_interval(found) if found.interval else number(found.value, 2)

    return Column(name, UP if higher else DOWN, text, lambda row: estimate(row).value)


def _column(name: str, role: str) -> Column:
    def value(row: Row) -> float:
        by_role: Mapping[Any, Any] = row.measures.get(name, {})
        return by_role[role].value if role in by_role else math.nan

    return Column(title(name, role), good(name, role), lambda row: written(name, value(row)), value)

"""Measurements as rich tables, within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from erasekit.records import Estimate, QuickResult, Row, Summary

UP, DOWN = "↑", "↓"
WORDS = ("concept", "family", "method", "worst")
"""Columns that hold words, to the left; numbers stand to the right."""


def quick_table(result: QuickResult) -> RenderableType:
    """The erased concepts with alignment and ESR-1, then the others with delta."""
    erased = _table("Erased", ("concept", f"alignment before → after {DOWN}", f"ESR-1 {UP}", "n"))
    for concept in result.erased:
        erased.add_row(
            Text(concept.paired.concept),
            f"{_number(concept.alignment_before)} → {_number(concept.alignment_after)}",
            _percent(concept.esr1.value),
            str(concept.esr1.n),
        )
    kept = _table("What it cost", ("concept", "family", f"delta {DOWN}", "95 % interval", "n"))
    for concept in result.kept:
        kept.add_row(
            Text(concept.paired.concept),
            Text(concept.paired.family),
            _signed(concept.delta.value),
            _interval(concept.delta),
            str(concept.delta.n),
        )
    kept.add_section()
    kept.add_row(
        "mean", "", _signed(result.delta.value), _interval(result.delta), str(result.delta.n)
    )
    note = Text(
        f"Alignment: 100 x cosine by {result.scorer}. delta: its loss at the same noise, best 0.",
        style="dim",
    )
    return Group(erased, kept, note)


def bench_table(summary: Summary, scorer: str = "") -> RenderableType:
    """A table per erased set, the un-erased model first, and one over all sets."""
    parts: list[RenderableType] = []
    groups: dict[str, list[Row]] = {}
    for row in summary.rows:
        groups.setdefault(row.erased, []).append(row)
    for erased, rows in groups.items():
        parts.append(_bench_group(f"Erased: {erased}", rows))
    if summary.overall:
        parts.append(_bench_group(f"All {len(groups)} erased sets", summary.overall))
    parts.append(Text(_legend(scorer), style="dim"))
    return Group(*parts)


def _bench_group(title: str, rows: Sequence[Row]) -> Table:
    table = _table(
        title,
        (
            "method",
            f"align\n{DOWN}",
            f"ESR-1\n{UP}",
            f"delta, 95 % interval\nheld-out {DOWN}",
            f"pool\n{DOWN}",
            f"worst\n{DOWN}",
            f"PSR-1\n{UP}",
            "UNet\npasses",
            "s",
        ),
    )
    for row in rows:
        base = row.method == "base"
        failed = f" ({row.failed} failed)" if row.failed else ""
        table.add_row(
            Text(row.method + failed),
            _number(row.alignment_after.value),
            _percent(row.esr1.value),
            "" if base else f"{_number(row.delta.value, 2)} {_interval(row.delta)}",
            "" if base else _number(row.delta_pool.value, 2),
            Text(f"{row.worst[0][:10]} {_number(row.worst[1])}" if row.worst else ""),
            _percent(row.psr1.value),
            "" if base else _thousands(row.unet_passes),
            "" if base else _number(row.seconds, 0),
            end_section=base,
        )
    return table


def _legend(scorer: str) -> str:
    by = f" by {scorer}" if scorer else ""
    return (
        f"align: of the erased concepts' images with their prompt, 100 x cosine{by}.\n"
        "delta: loss of alignment at the same noise. Methods may keep pool concepts on\n"
        "purpose, held-out ones never. PSR-1 and worst: held-out. UNet passes: forward +\n"
        "2 backward; passes and seconds are those of one erasure. base: not erased."
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for position, name in enumerate(columns):
        table.add_column(
            name,
            justify="left" if name.startswith(WORDS) else "right",
            style="cyan" if position == 0 else None,
            no_wrap=True,
        )
    return table


def _number(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{_off_zero(value, digits):.{digits}f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{_off_zero(value):+.2f}"


def _off_zero(value: float, digits: int = 2) -> float:
    """The value rounded, without the sign of a zero."""
    return round(value, digits) + 0.0


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def _interval(estimate: Estimate) -> str:
    limits = estimate.interval
    return f"[{_number(limits[0], 2)}, {_number(limits[1], 2)}]" if limits else "[-]"


def _thousands(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value / 1000:.1f}k" if value < 100_000 else f"{value / 1000:.0f}k"

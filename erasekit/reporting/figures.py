"""Figures of a bench: erasure against what it costs, and whom it costs most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from erasekit.records import ConceptRow, Estimate, Row, Summary
from erasekit.reporting.bench_table import BASE
from erasekit.reporting.drawing import (
    INK,
    Style,
    dressed,
    new_figure,
    save_figure,
    styles,
)

PANELS_ACROSS = 3
SUFFIXES = (".png", ".svg")
HARMED = 12
"""Concepts in a figure of those that were harmed most."""
APART = 5.0
"""Points of print between methods with the same ESR-1."""
SPREAD = 20.0
"""At most between the first and the last of them, or they would leave the panel."""


def save_pareto(summary: Summary, path: Path) -> list[Path]:
    """Write ESR-1 against mean held-out delta as PNG and SVG, a panel per erased set.

    Args:
        summary: the rows; over several erased sets the first panel is over all of them.
        path: where to; its suffix is replaced.

    Returns:
        The files; none where nothing was measured.

    Raises:
        OutputError: a file can't be written.
    """
    panels = pareto_panels(summary)
    if not panels:
        return []
    across = min(PANELS_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    looks = styles(_methods(summary))
    figure = new_figure(3.9 * across + 0.2, 3.6 * down + 0.5)
    for position, (title, rows) in enumerate(panels.items()):
        _pareto(figure.add_subplot(down, across, position + 1), title, rows, looks)
    shown = {row.method for rows in panels.values() for row in rows}
    _legend(figure, {m: look for m, look in looks.items() if m in shown})
    files = [path.with_suffix(suffix) for suffix in SUFFIXES]
    for file in files:
        save_figure(figure, file)
    return files


def pareto_figure(title: str, rows: Sequence[Row], looks: Mapping[str, Style]) -> Figure:
    """One panel of `pareto_panels` as a figure of its own, with its legend."""
    figure = new_figure(4.2, 3.9)
    _pareto(figure.add_subplot(), title, rows, looks)
    _legend(figure, {row.method: looks[row.method] for row in rows})
    return figure


def pareto_panels(summary: Summary) -> dict[str, list[Row]]:
    """Rows that can be drawn, by panel title; a panel has at least one method beside the base."""
    panels: dict[str, list[Row]] = {}
    sets = len({row.erased for row in summary.rows})
    for row in (*summary.overall, *summary.rows):
        title = f"all {sets} erased sets" if row in summary.overall else f"erased: {row.erased}"
        if not math.isnan(_delta(row).value) and not math.isnan(row.esr1.value):
            panels.setdefault(title, []).append(row)
    return {
        title: rows for title, rows in panels.items() if any(row.method != BASE for row in rows)
    }


def harm_figure(
    rows: Sequence[ConceptRow], looks: Mapping[str, Style], title: str = ""
) -> Figure | None:
    """The concepts that lost most by any method, a line each: delta by method, with intervals.

    Args:
        rows: of one erased set.
        looks: the methods, in their order.
        title: stands above.

    Returns:
        None where no delta is known.
    """
    known = [row for row in rows if not math.isnan(row.delta.value)]
    most: dict[str, float] = {}
    for row in known:
        most[row.concept] = max(row.delta.value, most.get(row.concept, -math.inf))
    if not most:
        return None
    concepts = sorted(most, key=lambda name: (-most[name], name))[:HARMED]
    methods = [m for m in looks if any(row.method == m for row in known)]
    figure = new_figure(4.4, 1.5 + len(concepts) * max(0.3, 0.11 * len(methods) + 0.08))
    axes = figure.add_subplot()
    for row in known:
        if row.concept in concepts:
            shift = (methods.index(row.method) + 0.5) / len(methods) - 0.5
            place = concepts.index(row.concept) + 0.7 * shift
            _point(axes, row.delta.value, place, looks[row.method], x=row.delta)
    axes.set_yticks(range(len(concepts)), concepts)
    axes.set_ylim(len(concepts) - 0.4, -0.6)
    shown = [row.delta.value for row in known if row.concept in concepts]
    low, high = min(0.0, *shown), max(0.0, *shown)
    room = 0.4 * (high - low) + 0.5
    axes.set_xlim(low - room, high + room)  # with few images intervals would leave only themselves
    for line in range(1, len(concepts)):
        axes.axhline(line - 0.5, color=INK, alpha=0.1, linewidth=0.6)
    axes.axvline(0, color=INK, alpha=0.5, linewidth=0.8)
    axes.set_xlabel("delta, points of alignment lost (best is 0)")
    axes.set_title(title, fontsize="medium")
    dressed(axes)
    axes.grid(axis="y", visible=False)
    _legend(figure, {method: looks[method] for method in methods})
    return figure


def _pareto(axes: Any, title: str, rows: Sequence[Row], looks: Mapping[str, Style]) -> None:
    front = _front(rows)
    axes.step(
        [_delta(row).value for row in front],
        [100 * row.esr1.value for row in front],
        where="post",
        color=INK,
        alpha=0.35,
        linewidth=1,
        linestyle=(0, (4, 3)),
        zorder=1,
    )
    for row, raised in zip(rows, _apart(rows), strict=True):
        delta, esr = _delta(row), row.esr1
        percent = Estimate(100 * esr.value, esr.n, esr.missing, 100 * esr.low, 100 * esr.high)
        _point(
            axes, delta.value, percent.value, looks[row.method], x=delta, y=percent, raised=raised
        )
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("mean delta on held-out concepts\n← less harm")
    axes.set_ylabel("erased more →\nESR-1, %")
    axes.set_ylim(-8, 110)
    ends = [end for row in rows for end in _ends(_delta(row))]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    axes.set_xlim(min(ends) - room, max(ends) + room)
    dressed(axes)


def _delta(row: Row) -> Estimate:
    """Of the un-erased model it is 0 by definition, whether or not it was computed."""
    return Estimate(0.0, row.delta.n) if row.method == BASE else row.delta


def _front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in both, from the least harm to the most."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (_delta(row).value, -row.esr1.value)):
        if not front or row.esr1.value > front[-1].esr1.value:
            front.append(row)
    return front


def _apart(rows: Sequence[Row]) -> list[float]:
    """How far to raise each point, in points of print, so that those of one ESR-1 are all seen."""
    places = [round(100 * row.esr1.value) for row in rows]
    found = []
    for i, place in enumerate(places):
        gaps = places.count(place) - 1
        apart = min(APART, SPREAD / gaps) if gaps else 0.0
        found.append(apart * (places[:i].count(place) - gaps / 2))
    return found


def _point(
    axes: Any,
    at_x: float,
    at_y: float,
    look: Style,
    *,
    x: Estimate,
    y: Estimate | None = None,
    raised: float = 0.0,
) -> None:
    axes.errorbar(
        at_x,
        at_y,
        xerr=_reach(x),
        yerr=_reach(y) if y else None,
        fmt=look.marker,
        color=look.colour,
        markerfacecolor=look.colour if look.filled else "none",
        markersize=7,
        capsize=2.5,
        elinewidth=1.2,
        zorder=3,
        transform=axes.transData + ScaledTranslation(0, raised / 72, axes.figure.dpi_scale_trans),
    )


def _ends(estimate: Estimate) -> tuple[float, ...]:
    return (estimate.value, *(estimate.interval or ()))


def _reach(estimate: Estimate) -> list[list[float]] | None:
    """How far the interval reaches to either side, as matplotlib wants it."""
    limits = estimate.interval
    if limits is None:
        return None
    return [[max(0.0, estimate.value - limits[0])], [max(0.0, limits[1] - estimate.value)]]


def _legend(figure: Figure, looks: Mapping[str, Style]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            markerfacecolor=look.colour if look.filled else "none",
            label=method,
        )
        for method, look in looks.items()
    ]
    columns = min(len(handles), max(2, int(figure.get_figwidth())))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        frameon=False,
        labelcolor=INK,
    )


def _methods(summary: Summary) -> list[str]:
    return list(dict.fromkeys(row.method for row in summary.rows))

"""The Pareto figure: ESR-1 against mean delta, with the front that no method beats in both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from erasekit.bench.records import Row, Summary
from erasekit.metrics.scores import Estimate
from erasekit.reporting.bench_table import BASE
from erasekit.reporting.figures import (
    INK,
    Style,
    add_legend,
    draw_point,
    dress,
    new_figure,
    save,
    styles,
)

PANELS_ACROSS = 3
SUFFIXES = (".png", ".svg")


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
    looks = styles([row.method for row in summary.rows])
    figure = new_figure(3.9 * across + 0.2, 3.6 * down + 0.5)
    for position, (title, rows) in enumerate(panels.items()):
        _draw(figure.add_subplot(down, across, position + 1), title, rows, looks)
    shown = {row.method for rows in panels.values() for row in rows}
    add_legend(figure, {m: look for m, look in looks.items() if m in shown})
    files = [path.with_suffix(suffix) for suffix in SUFFIXES]
    for file in files:
        save(figure, file)
    return files


def pareto_figure(title: str, rows: Sequence[Row], looks: Mapping[str, Style]) -> Figure:
    """One panel of `pareto_panels` as a figure of its own, with its legend."""
    figure = new_figure(4.2, 3.9)
    _draw(figure.add_subplot(), title, rows, looks)
    add_legend(figure, {row.method: looks[row.method] for row in rows})
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


def _draw(axes: Any, title: str, rows: Sequence[Row], looks: Mapping[str, Style]) -> None:
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
    for row in rows:
        low, high = (100 * limit for limit in (row.esr1.low, row.esr1.high))
        percent = Estimate(100 * row.esr1.value, row.esr1.n, row.esr1.missing, low, high)
        draw_point(axes, looks[row.method], x=_delta(row), y=percent)
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("mean delta on held-out concepts\n← less harm")
    axes.set_ylabel("erased more →\nESR-1, %")
    axes.set_ylim(-5, 105)
    ends = [end for row in rows for end in (_delta(row).value, *(_delta(row).interval or ()))]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    axes.set_xlim(min(ends) - room, max(ends) + room)
    dress(axes)


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

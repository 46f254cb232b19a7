"""Figures of a bench: erasure against what it costs."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from erasekit.files import atomic_path
from erasekit.records import Row, Summary

MARKERS = "osD^vP*XhH8p"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's colours, told apart without colour vision; markers differ as well."""


def plot_pareto(summary: Summary, path: Path) -> bool:
    """Write ESR-1 against mean held-out delta as PNG, a panel per erased set.

    Up and left is good. False, and no file, where nothing was measured.

    Raises:
        OutputError: the file can't be written.
    """
    panels: dict[str, list[Row]] = {}
    for row in summary.rows:
        if not math.isnan(row.delta.value) and not math.isnan(row.esr1.value):
            panels.setdefault(row.erased, []).append(row)
    panels = {erased: rows for erased, rows in panels.items() if len(rows) > 1}
    if not panels:
        return False
    methods = list(dict.fromkeys(row.method for row in summary.rows))
    figure = Figure(figsize=(4.4 * len(panels) + 1.4, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for position, (erased, rows) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), position + 1)
        for row in rows:
            place = methods.index(row.method)
            limits = row.delta.interval or (row.delta.value, row.delta.value)
            axes.errorbar(
                row.delta.value,
                100 * row.esr1.value,
                xerr=[[row.delta.value - limits[0]], [limits[1] - row.delta.value]],
                fmt=MARKERS[place % len(MARKERS)],
                color=COLOURS[place % len(COLOURS)],
                capsize=3,
                label=row.method,
            )
        axes.set_title(f"erased: {erased}", fontsize="medium")
        axes.set_xlabel("mean delta, held-out concepts (lower is better)")
        axes.set_ylabel("ESR-1, % (higher is better)")
        axes.set_ylim(-5, 105)
        axes.grid(alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True

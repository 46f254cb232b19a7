"""Figures: erasure against harm, harm by concept, the curves of a run; as PNG and SVG."""

from __future__ import annotations

import colorsys
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from erasekit.bench.records import BASE, ConceptRow, Row, Summary
from erasekit.files import atomic_path
from erasekit.metrics.scores import NOTHING, Estimate
from erasekit.reporting.run_table import Record

INK = "#1b1c1e"
"""Text and axes; on a page it becomes the colour of the text around the figure."""
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"),
    *("#332288", "#882255", "#999933", "#661100", "#5b8c85", "#aa4499"),
)
"""Okabe and Ito's colours but yellow and black, then some of Tol's."""
MARKERS = "sD^vP*Xp<>d"
"""Their number has no divisor in common with that of the colours."""
DASHES = ("-", "--", ":", "-.")
BUILT_IN = ("none", "neutral", "l2", "pgd", "gumbel", "random", "argmax", "nearest")
"""Methods that look the same in every figure."""
HARMED = 12
"""Concepts in a figure of those that were harmed most."""
ACROSS = 3
"""Panels in a row."""
LOSSES = {"loss": "loss", "erase_loss": "erase", "preserve_loss": "preserve"}
BROAD = {"loss": {"linewidth": 4, "alpha": 0.4}}
"""The sum of two losses would hide the larger one under it."""
ENTROPY, RANK = "entropy of the search (nats)", "share of R that is harmed more"
SEARCH = {"entropy": ENTROPY, "shift": "c_a moved (share of its norm)", "rank": RANK}

_SVG = {"svg.hashsalt": "erasekit", "svg.fonttype": "none"}
_UNDATED = {"Date": None, "Creator": None, "Type": None, "Format": None}
_REFERENCE = re.compile(r'(\bid="|url\(#|href="#)')

Curves = dict[str, list[tuple[int, float]]]
"""Steps and values of each line of a panel."""
Line = tuple[str, Mapping[str, Estimate]]
"""A row of a figure: its name, and a value per mark."""


@dataclass(frozen=True)
class Style:
    """How a method looks in a figure; no two methods share a colour."""

    colour: str
    marker: str
    filled: bool = True

    @property
    def drawn(self) -> dict[str, Any]:
        """As matplotlib takes it."""
        face = self.colour if self.filled else "none"
        return {"marker": self.marker, "color": self.colour, "markerfacecolor": face}


def style(place: int) -> Style:
    """How number `place` looks."""
    return Style(colour(place), MARKERS[place % len(MARKERS)])


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style per method; the un-erased model is a hollow circle in the colour of the text.

    A built-in method's goes by its name, whatever stands beside it; others follow in their order.
    """
    places = list(dict.fromkeys((*BUILT_IN, *(m for m in methods if m != BASE))))
    own = {method: style(places.index(method)) for method in methods if method != BASE}
    return {BASE: Style(INK, "o", filled=False), **own}


def colour(place: int) -> str:
    """One of `COLOURS`, then one whose hue is far from those before it."""
    if place < len(COLOURS):
        return COLOURS[place]
    channels = colorsys.hls_to_rgb(place * 0.381966 % 1, 0.35 + 0.1 * (place % 3), 0.6)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with a canvas of its own: no global state of matplotlib."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any) -> None:
    """Text and frame in `INK`, a faint grid, no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize="small")
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)


def frame(axes: Any, values: Sequence[float], *, upright: bool = False) -> None:
    """Limits around 0 and `values` along x or y; wider intervals are cut off there."""
    there = [value for value in values if not math.isnan(value)]
    low, high = min([0.0, *there]), max([0.0, *there])
    margin = 0.25 * (high - low) or 1.0
    (axes.set_ylim if upright else axes.set_xlim)(low - margin, high + margin)


def draw_point(axes: Any, look: Style, *, x: Estimate | float, y: Estimate | float) -> None:
    """A mark, with an interval where an `Estimate` has one; none where a value is NaN."""
    values = [side.value if isinstance(side, Estimate) else side for side in (x, y)]
    if any(map(math.isnan, values)):
        return
    axes.errorbar(
        *values,
        xerr=_reach(x),
        yerr=_reach(y),
        **look.drawn,
        linestyle="none",
        ecolor=(look.colour, 0.6),
        markersize=7,
        capsize=2.5,
        elinewidth=1.2,
        zorder=3,
    )


def _reach(side: Estimate | float) -> list[list[float]] | None:
    """How far its interval goes below and above an estimate."""
    if not isinstance(side, Estimate) or side.interval is None:
        return None
    low, high = side.interval
    return [[max(0.0, side.value - low)], [max(0.0, high - side.value)]]


def add_legend(figure: Figure, looks: Mapping[str, Style], title: str = "") -> None:
    """What the marks mean, below a figure."""
    handles = [
        Line2D([], [], linestyle="none", label=name, **look.drawn) for name, look in looks.items()
    ]
    figure.legend(
        handles=handles,
        title=title or None,
        loc="outside lower center",
        ncols=min(len(handles), max(2, int(figure.get_figwidth()))),
        fontsize="small",
        frameon=False,
        labelcolor=INK,
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix; the same figure gives the same bytes.

    Raises:
        OutputError: the file can't be written.
    """
    kind = path.suffix.removeprefix(".")
    with atomic_path(path) as temporary:
        _write(figure, temporary, format=kind, metadata=_UNDATED if kind == "svg" else None)


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element for an HTML page.

    It has no background, its ink is the colour of the text around it, and the page may set
    `COLOURS` anew as --series-0 and on. Its ids begin with `name`, so that several can stand on
    one page.
    """
    buffer = io.StringIO()
    _write(figure, buffer, format="svg", transparent=True, metadata=_UNDATED)
    svg = buffer.getvalue()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = _REFERENCE.sub(rf"\g<1>{name}-", svg).replace(INK, "currentColor")
    for place, own in enumerate(COLOURS):
        svg = svg.replace(own, f"var(--series-{place}, {own})")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _write(figure: Figure, target: Any, **how: Any) -> None:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a concept's name is no formula
    with matplotlib.rc_context(_SVG):
        figure.savefig(target, dpi=150, **how)


# erasure against harm


def save_pareto(summary: Summary, path: Path) -> list[Path]:
    """Write ESR-1 against mean held-out delta as PNG and SVG, a panel per erased set.

    Gives the files: `path` with other suffixes; none where nothing was measured.

    Raises:
        OutputError: a file can't be written.
    """
    panels = pareto_panels(summary)
    if not panels:
        return []
    figure = pareto_figure(panels, styles([row.method for row in summary.rows]))
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        save(figure, file)
    return files


def pareto_figure(panels: Mapping[str, Sequence[Row]], looks: Mapping[str, Style]) -> Figure:
    """Panels of `pareto_panels`; a dashed line joins what no other method beats in both."""
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = new_figure(3.9 * across + 0.2, 3.6 * down + 0.5)
    for position, (title, rows) in enumerate(panels.items()):
        _draw_front(figure.add_subplot(down, across, position + 1), title, rows, looks)
    shown = {row.method for rows in panels.values() for row in rows}
    add_legend(figure, {method: look for method, look in looks.items() if method in shown})
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


def _draw_front(axes: Any, title: str, rows: Sequence[Row], looks: Mapping[str, Style]) -> None:
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (_delta(row).value, -row.esr1.value)):
        if not front or row.esr1.value > front[-1].esr1.value:
            front.append(row)
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


# harm by concept


def harm_figure(
    rows: Sequence[ConceptRow], looks: Mapping[str, Style], title: str = ""
) -> Figure | None:
    """The concepts of one erased set that lost most by any method, with a mark per method.

    None where no delta is known.
    """
    known = [row for row in rows if not math.isnan(row.delta.value)]
    found: dict[str, dict[str, Estimate]] = {}
    for row in known:
        found.setdefault(row.concept, {})[row.method] = row.delta
    if not found:
        return None
    most = {name: max(delta.value for delta in by.values()) for name, by in found.items()}
    own = {m: look for m, look in looks.items() if any(row.method == m for row in known)}
    lines = [
        (name, {method: found[name].get(method, NOTHING) for method in own})
        for name in sorted(most, key=lambda name: (-most[name], name))[:HARMED]
    ]
    figure = new_figure(4.4, 1.5 + len(lines) * max(0.3, 0.11 * len(own) + 0.08))
    axes = figure.add_subplot()
    draw_lines(axes, lines, own)
    axes.set_xlabel("delta, points of alignment lost (0 is best)")
    axes.set_title(title, fontsize="medium", color=INK)
    add_legend(figure, own)
    return figure


def draw_lines(axes: Any, lines: Sequence[Line], looks: Mapping[str, Style]) -> None:
    """A named line per row with a mark for each of its values; one without values is a heading."""
    for place, (_, own) in enumerate(lines):
        for number, (name, estimate) in enumerate(own.items()):
            shift = 0.7 * ((number + 0.5) / len(own) - 0.5)
            draw_point(axes, looks[name], x=estimate, y=place + shift)
        if place:
            axes.axhline(place - 0.5, color=INK, alpha=0.1, linewidth=0.6)
    size = "small" if len(lines) <= 30 else "x-small"
    axes.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=size)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    frame(axes, [estimate.value for _, own in lines for estimate in own.values()])
    axes.axvline(0, color=INK, alpha=0.5, linewidth=0.8)
    dress(axes)
    axes.grid(axis="y", visible=False)
    for label, (_, own) in zip(axes.get_yticklabels(), lines, strict=False):
        label.set_fontstyle("normal" if own else "italic")
        label.set_fontsize(size)


# the curves of a run


def plot_history(history: Sequence[Record], path: Path, title: str = "") -> bool:
    """Write the curves of `history` as PNG; False, and no file, where it has nothing to plot.

    One panel for the losses (smoothed over a twentieth of the run, raw values faint), one each
    for entropy, shift and rank where the run has them, a line per erased concept. Entropy stands
    on an axis from 0 to that of the uniform distribution, ranks on one from 0 to 1.

    Raises:
        OutputError: the file can't be written.
    """
    panels = _panels(history)
    if not panels:
        return False
    figure = new_figure(5 * len(panels), 3.6)
    figure.suptitle(title)
    for column, (label, curves) in enumerate(panels.items()):
        _draw_curves(figure.add_subplot(1, len(panels), column + 1), label, curves, history)
    save(figure, path)
    return True


def history_figures(history: Sequence[Record]) -> dict[str, Figure]:
    """Each panel of `plot_history` as a figure of its own, by what it shows."""
    figures = {}
    for label, curves in _panels(history).items():
        figures[label] = new_figure(4.4, 3.2)
        _draw_curves(figures[label].add_subplot(), label, curves, history)
    return figures


def _panels(history: Sequence[Record]) -> dict[str, Curves]:
    """The curves of each panel that has a value."""
    panels: dict[str, Curves] = {label: {} for label in ("loss", *SEARCH.values())}

    def add(label: str, line: str, step: int, value: float | None) -> None:
        if value is not None:
            panels[label].setdefault(line, []).append((step, value))

    for record in history:
        for key, line in LOSSES.items():
            add("loss", line, record["step"], record.get(key))
        for one in record.get("adversary") or ():
            for key, label in SEARCH.items():
                add(label, one["erased"], record["step"], one.get(key))
    return {label: curves for label, curves in panels.items() if curves}


def _draw_curves(axes: Any, label: str, curves: Curves, history: Sequence[Record]) -> None:
    for index, (name, points) in enumerate(curves.items()):
        steps, values = zip(*points, strict=True)
        width = max(1, len(values) // 20)
        means = [np.mean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]
        axes.plot(steps, values, color=colour(index), alpha=0.25, linewidth=1)
        dash = DASHES[index % len(DASHES)]
        more = BROAD.get(name, {}) if label == "loss" else {}
        axes.plot(steps, means, label=name, color=colour(index), linestyle=dash, **more)
    if label in SEARCH.values():  # a search that hardly settles is not to look as if it did
        top = 1.0 if label == RANK else _most_entropy(history) if label == ENTROPY else None
        axes.set_ylim(0, 1.02 * top if top else None)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    dress(axes)
    axes.legend(fontsize="small", frameon=False, labelcolor=INK)


def _most_entropy(history: Sequence[Record]) -> float:
    """That of the uniform distribution, or the largest where a run did not write it."""
    rows = [row for record in history for row in record.get("adversary") or ()]
    return max(float(row.get("uniform") or row["entropy"]) for row in rows if row.get("entropy"))

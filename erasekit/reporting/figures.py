"""Figures: how a method looks, what a run's curves are, whom an erasure harms most; PNG and SVG."""

from __future__ import annotations

import colorsys
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from erasekit.bench.records import ConceptRow
from erasekit.files import atomic_path
from erasekit.metrics.scores import Estimate
from erasekit.reporting.bench_table import BASE
from erasekit.reporting.run_table import Record

INK = "#1b1c1e"
"""Text and axes; on a page it becomes the colour of the text around the figure."""
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"),
    *("#332288", "#882255", "#999933", "#661100", "#5b8c85", "#aa4499"),
)
"""Okabe and Ito's colours but yellow and black, then some of Tol's; the first twelve methods'."""
MARKERS = "sD^vP*Xp<>d"
"""Their number has no divisor in common with that of the colours."""
BUILT_IN = ("none", "neutral", "l2", "pgd", "gumbel", "random", "argmax", "nearest")
"""Methods that look the same in every figure."""
HARMED = 12
"""Concepts in a figure of those that were harmed most."""
LOSSES = {"loss": "loss", "erase_loss": "erase", "preserve_loss": "preserve"}
LINES: dict[str, dict[str, Any]] = {"loss": {"linewidth": 4, "alpha": 0.4}}
"""The sum of two losses would hide the larger one under it, so it is drawn broad and pale."""
ENTROPY, RANK = "entropy of the search (nats)", "share of R that is harmed more"
SEARCH = {"entropy": ENTROPY, "shift": "c_a moved (share of its norm)", "rank": RANK}
DASHES = ("-", "--", ":", "-.")

_SVG = {"svg.hashsalt": "erasekit", "svg.fonttype": "none"}
_UNDATED = {"Date": None, "Creator": None, "Type": None, "Format": None}
_REFERENCE = re.compile(r'(\bid="|url\(#|href="#)')


@dataclass(frozen=True)
class Style:
    """How a method looks in a figure; no two methods share a colour."""

    colour: str
    marker: str
    filled: bool = True


def styles(methods: Sequence[str]) -> Mapping[str, Style]:
    """A style per method; the un-erased model is a hollow circle in the colour of the text.

    A built-in method's goes by its name, so that it is the same whatever stands beside it; the
    others follow in their order.
    """
    others = dict.fromkeys(method for method in methods if method not in (BASE, *BUILT_IN))
    found = {
        method: Style(colour(place), MARKERS[place % len(MARKERS)])
        for place, method in enumerate((*BUILT_IN, *others))
    }
    shown = {method: found[method] for method in methods if method != BASE}
    return {BASE: Style(INK, "o", filled=False), **shown}


def colour(place: int) -> str:
    """One of `COLOURS`, then one whose hue is far from those before it."""
    if place < len(COLOURS):
        return COLOURS[place]
    red, green, blue = colorsys.hls_to_rgb(place * 0.381966 % 1, 0.35 + 0.1 * (place % 3), 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with a canvas of its own: no global state of matplotlib."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any) -> None:
    """Text and frame in `INK`, a faint grid, no box."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(colors=INK, labelsize="small")
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the path's suffix names, such as .png or .svg.

    The same figure gives the same bytes.

    Raises:
        OutputError: the file can't be written.
    """
    _take_dollars_literally(figure)
    kind = path.suffix.removeprefix(".")
    metadata = _UNDATED if kind == "svg" else None
    with atomic_path(path) as temporary, matplotlib.rc_context(_SVG):
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element for an HTML page.

    It has no background, its ink is the colour of the text around it, and the page may set
    `COLOURS` anew as --series-0 and on. Its ids begin with `name`, so that several can stand on
    one page.
    """
    _take_dollars_literally(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context(_SVG):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_UNDATED)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _REFERENCE.sub(rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    for place, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--series-{place}, {colour})")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _take_dollars_literally(figure: Figure) -> None:
    """A concept's name is no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


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
            draw_point(axes, looks[row.method], x=row.delta, y=Estimate(place, 1))
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
    dress(axes)
    axes.grid(axis="y", visible=False)
    add_legend(figure, {method: looks[method] for method in methods})
    return figure


def draw_point(axes: Any, look: Style, *, x: Estimate, y: Estimate) -> None:
    """A method's mark with its intervals."""

    def reach(estimate: Estimate) -> list[list[float]] | None:
        limits = estimate.interval
        if limits is None:
            return None
        return [[max(0.0, estimate.value - limits[0])], [max(0.0, limits[1] - estimate.value)]]

    axes.errorbar(
        x.value,
        y.value,
        xerr=reach(x),
        yerr=reach(y),
        fmt=look.marker,
        color=look.colour,
        ecolor=(look.colour, 0.6),
        markerfacecolor=look.colour if look.filled else "none",
        markersize=7,
        capsize=2.5,
        elinewidth=1.2,
        zorder=3,
    )


def add_legend(figure: Figure, looks: Mapping[str, Style]) -> None:
    """The methods below a figure."""
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
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), max(2, int(figure.get_figwidth()))),
        fontsize="small",
        frameon=False,
        labelcolor=INK,
    )


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
    for column, (label, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), column + 1)
        _draw(axes, label, lines, _top(label, history))
    save(figure, path)
    return True


def history_figures(history: Sequence[Record]) -> dict[str, Figure]:
    """Each panel of `plot_history` as a figure of its own, by what it shows."""
    figures = {}
    for label, lines in _panels(history).items():
        figures[label] = new_figure(4.4, 3.2)
        _draw(figures[label].add_subplot(), label, lines, _top(label, history))
    return figures


def _panels(history: Sequence[Record]) -> dict[str, Mapping[str, tuple[list[int], list[float]]]]:
    losses = {name: _series(history, _loss(key)) for key, name in LOSSES.items()}
    panels = {"loss": losses}
    for key, label in SEARCH.items():
        panels[label] = {e: _series(history, _adversary(key, e)) for e in _erased(history)}
    there = {
        label: {name: line for name, line in lines.items() if line[0]}
        for label, lines in panels.items()
    }
    return {label: lines for label, lines in there.items() if lines}


def _top(label: str, history: Sequence[Record]) -> float | None:
    """Where the axis ends; None where it follows what is drawn."""
    if label == RANK:
        return 1.0
    rows = (row for record in history for row in record.get("adversary") or ())
    known = [row.get("uniform") or row["entropy"] for row in rows if row.get("entropy")]
    return max(known, default=None) if label == ENTROPY else None


def _draw(
    axes: Any,
    label: str,
    lines: Mapping[str, tuple[list[int], list[float]]],
    top: float | None,
) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    for index, (name, (steps, values)) in enumerate(lines.items()):
        look = {
            "color": colour(index),
            "linestyle": DASHES[index % len(DASHES)],
            **LINES.get(name, {}),
        }
        axes.plot(steps, values, color=look["color"], alpha=0.25, linewidth=1)
        axes.plot(steps, _smoothed(values), label=name, **look)
    if label in SEARCH.values():
        axes.set_ylim(0, 1.02 * top if top else None)
        # a search that hardly settles is not to look as if it did
    dress(axes)
    axes.legend(fontsize="small", frameon=False, labelcolor=axes.yaxis.label.get_color())


def _erased(history: Sequence[Record]) -> list[str]:
    names = (a["erased"] for record in history for a in record.get("adversary") or ())
    return list(dict.fromkeys(names))


def _loss(key: str) -> Callable[[Record], Any]:
    return lambda record: record.get(key)


def _adversary(key: str, erased: str) -> Callable[[Record], Any]:
    def read(record: Record) -> Any:
        for adversary in record.get("adversary") or ():
            if adversary["erased"] == erased:
                return adversary.get(key)
        return None

    return read


def _series(
    history: Sequence[Record], read: Callable[[Record], Any]
) -> tuple[list[int], list[float]]:
    """Steps and values where there is a value."""
    pairs = [(record["step"], read(record)) for record in history]
    pairs = [(step, value) for step, value in pairs if value is not None]
    return [step for step, _ in pairs], [float(value) for _, value in pairs]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Running mean over the last twentieth of the run."""
    width = max(1, len(values) // 20)
    return [
        sum(values[max(0, i + 1 - width) : i + 1]) / min(width, i + 1) for i in range(len(values))
    ]

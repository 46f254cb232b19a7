"""What all figures share: how a method looks, and how a figure becomes a file or part of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from erasekit.files import atomic_path
from erasekit.reporting.bench_table import BASE

INK = "#1b1c1e"
"""Text and axes; on a page it becomes the colour of the text around the figure."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colours but yellow, which is lost on white, and black, which is the base's."""
MARKERS = "sD^vP*Xp<>d"
"""As many as have no divisor in common with the number of colours: pairs repeat after 66."""
BUILT_IN = ("none", "neutral", "l2", "pgd", "gumbel", "random", "argmax", "nearest")
"""Methods that look the same in every figure."""

_SVG = {"svg.hashsalt": "erasekit", "svg.fonttype": "none"}
_UNDATED = {"Date": None, "Creator": None, "Type": None, "Format": None}
_REFERENCE = re.compile(r'(\bid="|url\(#|href="#)')


@dataclass(frozen=True)
class Style:
    """How a method looks in a figure: a colour and a marker; no two methods share both."""

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
        method: Style(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        for place, method in enumerate((*BUILT_IN, *others))
    }
    shown = {method: found[method] for method in methods if method != BASE}
    return {BASE: Style(INK, "o", filled=False), **shown}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with a canvas of its own: no global state of matplotlib."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dressed(axes: Any) -> None:
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


def save_figure(figure: Figure, path: Path) -> None:
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

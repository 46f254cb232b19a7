"""Figures of the observations, readable without colour vision: shapes and dashes differ too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from erasekit.files import atomic_path
from erasekit.observe.findings import (
    ImpactedConcept,
    ImpactResult,
    PreserveResult,
    SpectrumResult,
)
from erasekit.records import Estimate
from erasekit.reporting.drawing import COLOURS, MARKERS
from erasekit.reporting.table import percent

FORMS = ("png", "svg")
ROWS = 60
"""Concepts that a figure has room for."""
DASHES = ("-", "--", "-.", ":")
NATURES = {"none": "o", "related": "D", "unrelated": "s", "neutral": "^"}


def plot_observation(
    result: ImpactResult | SpectrumResult | PreserveResult, folder: Path
) -> list[Path]:
    """Write `figure.png` and `figure.svg` into `folder`.

    Raises:
        OutputError: they can't be written.
    """
    if isinstance(result, ImpactResult):
        figure = impact_figure(result)
    elif isinstance(result, SpectrumResult):
        figure = spectrum_figure(result)
    else:
        figure = preserve_figure(result)
    FigureCanvasAgg(figure)
    written = []
    for form in FORMS:
        path = folder / f"figure.{form}"
        same = {"Date": None} if form == "svg" else {}
        with (
            atomic_path(path) as temporary,
            matplotlib.rc_context({"svg.hashsalt": "erasekit"}),
        ):
            figure.savefig(temporary, format=form, dpi=120, metadata=same)
        written.append(path)
    return written


def impact_figure(result: ImpactResult) -> Figure:
    """A row per concept, a mark per erasure: what is related to each first, then the others.

    Of more than `ROWS` concepts, those related to an erasure and the most harmed are shown.
    """
    groups = _impact_groups(result)
    count = sum(len(concepts) for _, concepts in groups) + len(groups)
    figure = Figure(figsize=(7.5, 1.4 + 0.19 * count), layout="constrained")
    axes = figure.add_subplot()
    places: list[float] = []
    names: list[str] = []
    values: list[float] = []
    y = 0.0
    for title, concepts in groups:
        axes.text(
            0.995,
            y,
            title,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize="small",
            fontstyle="italic",
        )
        axes.axhline(y + 0.5, color="0.8", linewidth=0.6)
        y += 1
        for concept in concepts:
            for position, delta in enumerate(concept.deltas):
                offset = 0.3 * (position - (len(concept.deltas) - 1) / 2)
                _point(axes, delta, y + offset, position)
                values.append(delta.value)
            places.append(y)
            names.append(concept.concept)
            y += 1
    axes.set_yticks(places, names, fontsize="x-small")
    axes.set_ylim(y - 0.4, -0.8)
    _frame(axes, values)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("delta: loss of alignment at the same noise (0 is best); bars: 95 %")
    axes.grid(axis="x", alpha=0.25)
    handles = [
        axes.plot(
            [],
            [],
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            label=e.erased,
        )[0]
        for i, e in enumerate(result.erasures)
    ]
    figure.legend(handles=handles, title="erased", loc="outside upper center", ncols=4)
    return figure


def spectrum_figure(result: SpectrumResult) -> Figure:
    """The histogram of sensitivities with its marks, above the sample's deltas."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    values = [v for v in result.sensitivities if v > 0]
    logarithmic = len(values) == len(result.sensitivities) and values[0] < values[-1]
    if logarithmic:
        upper.set_xscale("log")
    size = len(result.sensitivities)
    quarter = [result.sensitivities[int(q * (size - 1))] for q in (0.25, 0.75)]
    upper.axvspan(*quarter, color="0.9", label="middle half of the words")
    upper.hist(
        result.sensitivities,
        bins=_bins(result.sensitivities, logarithmic),
        color="0.65",
        edgecolor="white",
        linewidth=0.4,
    )
    for kind, marked, colour in (
        ("neutral", result.neutral, COLOURS[0]),
        ("erased", result.targets, COLOURS[1]),
    ):
        for i, word in enumerate(marked):
            upper.axvline(
                word.sensitivity,
                color=colour,
                linestyle=DASHES[i % len(DASHES)],
                linewidth=2 if kind == "neutral" else 3.5,
                label=f'{kind}: "{word.word}", above {percent(word.quantile)}',
            )
    upper.set_ylabel("words")
    upper.set_title(f"erased: {result.erased}; {size} words", fontsize="medium")
    figure.legend(fontsize="small", loc="outside upper center", ncols=2)
    for drawn in result.sample:
        _point(lower, drawn.delta, drawn.sensitivity, 0, upright=True)
        if not math.isnan(drawn.delta.value):
            lower.annotate(
                drawn.word,
                (drawn.sensitivity, drawn.delta.value),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize="x-small",
            )
    _frame(lower, [word.delta.value for word in result.sample], upright=True)
    lower.axhline(0, color="black", linewidth=0.8)
    lower.set_ylabel("delta of its images")
    lower.set_xlabel("sensitivity: mean squared change of the noise prediction")
    lower.grid(alpha=0.25)
    return figure


def preserve_figure(result: PreserveResult) -> Figure:
    """A row per kept concept: mean delta, and what keeping it saves."""
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(result.runs)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for y, run in enumerate(result.runs):
        colour = COLOURS[list(NATURES).index(run.nature)]
        _point(left, run.delta, y, 0, marker=NATURES[run.nature], colour=colour)
        if run.nature != "none":
            _point(right, run.saved, y, 0, marker=NATURES[run.nature], colour=colour)
    labels = [
        f"{run.label}" + (f"\n({run.nature})" if run.nature != "none" else "")
        for run in result.runs
    ]
    left.set_yticks(range(len(labels)), labels, fontsize="small")
    left.set_ylim(len(labels) - 0.5, -0.5)
    left.set_ylabel("kept")
    left.set_xlabel("mean delta (lower is better); bars: 95 %")
    right.set_xlabel("lower than with nothing kept, paired")
    right.axvline(0, color="black", linewidth=0.8)
    for y, run in enumerate(result.runs):
        right.text(
            1.01,
            y,
            f"ESR-1 {percent(run.strength.esr1.value)}",
            transform=right.get_yaxis_transform(),
            va="center",
            fontsize="small",
        )
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.25)
    figure.suptitle(
        f"erased: {result.erased}; {len(result.concepts)} held-out concepts", fontsize="medium"
    )
    return figure


def _impact_groups(result: ImpactResult) -> list[tuple[str, list[ImpactedConcept]]]:
    """Titles with concepts; of the others, most room goes to those that are harmed most."""
    taken: set[str] = set()
    groups = []
    for erasure in result.erasures:
        own = [
            c for c in result.concepts if c.concept in erasure.related and c.concept not in taken
        ]
        taken |= {c.concept for c in own}
        if own:
            groups.append((f"related to {erasure.erased}", own))
    others = [c for c in result.concepts if c.concept not in taken]
    by_harm = sorted(others, key=_harm, reverse=True)[: max(ROWS - len(taken), 0)]
    title = "others" if len(by_harm) == len(others) else f"{len(by_harm)} most harmed others"
    return [*groups, (title, by_harm)] if by_harm else groups


def _harm(concept: ImpactedConcept) -> float:
    return max((d.value for d in concept.deltas if not math.isnan(d.value)), default=-math.inf)


def _point(
    axes: Any,
    estimate: Estimate,
    place: float,
    position: int,
    *,
    upright: bool = False,
    marker: str = "",
    colour: str = "",
) -> None:
    """A mark with its interval, along x, or along y where `upright`; none where there is NaN."""
    if math.isnan(estimate.value):
        return
    low, high = estimate.interval or (estimate.value, estimate.value)
    reach = [[estimate.value - low], [high - estimate.value]]
    x, y = (place, estimate.value) if upright else (estimate.value, place)
    colour = colour or COLOURS[position % len(COLOURS)]
    axes.errorbar(
        x,
        y,
        **{"yerr" if upright else "xerr": reach},
        fmt=marker or MARKERS[position % len(MARKERS)],
        color=colour,
        ecolor=(colour, 0.5),
        markersize=5,
        elinewidth=0.8,
        capsize=1.5,
    )


def _frame(axes: Any, values: Sequence[float], *, upright: bool = False) -> None:
    """Limits that show every mark; wide intervals run out of the frame rather than rule it."""
    there = [value for value in values if not math.isnan(value)]
    low, high = min([0.0, *there]), max([0.0, *there])
    margin = 0.25 * (high - low) or 1.0
    (axes.set_ylim if upright else axes.set_xlim)(low - margin, high + margin)


def _bins(values: Sequence[float], logarithmic: bool) -> Any:
    count = min(60, max(10, len(values) // 10))
    if not logarithmic:
        return count
    low, high = math.log10(values[0]), math.log10(values[-1])
    return [10 ** (low + (high - low) * i / count) for i in range(count + 1)]

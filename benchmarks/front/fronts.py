"""What the records say: fronts read off at equal erasure, with concepts counted as random."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.front.along import ESR1, LEFT
from erasekit.metrics.statistics import crossed_interval
from erasekit.reporting.figures import colour, dress, new_figure, save

Line = Mapping[str, Any]
Value = Callable[[Mapping[str, Any]], float]
NEARNESS = ("near", "middle", "far")
WHOLE = ("passes", "still")
"""Columns without decimals begin so."""


def name_of(line: Line) -> str:
    """Schedule and lambda."""
    return f"{line['schedule']}, lambda {line['settings']['keep_weight']:g}"


def read_off(line: Line, at: Mapping[str, float], value: Value) -> float:
    """`value` where the run first passes this erasure, interpolated; NaN where it never does.

    Args:
        line: a record.
        at: {"left": alignment} or {"esr1": share}.
        value: of a point; the un-erased model is a point, too.
    """
    ((key, target),) = at.items()
    sign = 1 if key == "left" else -1  # left falls, esr1 rises
    start = {"step": 0, "passes": 0, "left": line["before"], "esr1": 0.0, "still": 1.0, "delta": {}}
    points = [start, *line["points"]]
    for before, after in itertools.pairwise(points):
        low, high = sign * after[key], sign * before[key]
        if low <= sign * target < high:
            share = (high - sign * target) / (high - low)
            return float(value(before) + share * (value(after) - value(before)))
    return math.nan


def delta_of(line: Line, nearness: Sequence[str] = NEARNESS) -> Value:
    """Mean delta over the kept concepts of these groups, each concept weighing the same."""
    names = [name for group in nearness for name in line["kept"][group]]

    def value(point: Mapping[str, Any]) -> float:
        deltas = point["delta"]
        return float(np.mean([deltas[n] for n in names])) if deltas else 0.0

    return value


def area(line: Line) -> float:
    """Mean delta between the largest and the smallest of `LEFT`: the area under the front, by its
    width; NaN where the run does not get so far."""
    lefts = np.linspace(LEFT[0], LEFT[-1], 26)
    return float(np.mean([read_off(line, {"left": left}, delta_of(line)) for left in lefts]))


def passes_of(point: Mapping[str, Any]) -> float:
    return float(point["passes"])


def still_of(point: Mapping[str, Any]) -> float:
    return 100 * float(point["still"])


COLUMNS: dict[str, Callable[[Line], float]] = {
    **{
        f"delta at left {left:g}": lambda line, left=left: read_off(  # type: ignore[misc]
            line, {"left": left}, delta_of(line)
        )
        for left in LEFT
    },
    **{
        f"delta at ESR-1 {100 * esr:g} %": lambda line, esr=esr: read_off(  # type: ignore[misc]
            line, {"esr1": esr}, delta_of(line)
        )
        for esr in ESR1
    },
    "area": area,
    **{
        f"{group}, at left 25": lambda line, group=group: read_off(  # type: ignore[misc]
            line, {"left": 25.0}, delta_of(line, (group,))
        )
        for group in NEARNESS
    },
    "still a picture at left 25, %": lambda line: read_off(line, {"left": 25.0}, still_of),
    "passes to left 25": lambda line: read_off(line, {"left": 25.0}, passes_of),
}


def by_concept(lines: Sequence[Line], column: Callable[[Line], float]) -> dict[str, float]:
    """Mean over seeds of each erased concept; concepts that no seed reaches are left out."""
    found: dict[str, list[float]] = {}
    for line in lines:
        if not math.isnan(value := column(line)):
            found.setdefault(line["concept"], []).append(value)
    return {concept: float(np.mean(values)) for concept, values in found.items()}


def with_interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean with a t interval over concepts, which are random; n behind it."""
    if not values:
        return "-"
    if len(values) < 2:
        return f"{values[0]:.{digits}f} (1)"
    found = crossed_interval(np.asarray(values)[None, :, None])
    return (
        f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}] "
        f"({len(values)})"
    )


def report(grid: Mapping[str, Any], lines: Sequence[Line], folder: Path) -> str:
    """Tables as markdown, and a figure per question in `folder`."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(name_of(line), []).append(line)
    text = [
        "Mean [95 % interval over erased concepts] (concepts that reach it).",
        "",
        "| schedule | runs | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, own in groups.items():
        cells = []
        for label, column in COLUMNS.items():
            values = list(by_concept(own, column).values())
            cells.append(with_interval(values, 0 if label.startswith(WHOLE) else 2))
        text.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    bases = [name for name in groups if name.startswith(f"{grid['against']},")]
    for base in bases:
        text += [
            "",
            f"Differences to {base}, paired by concept.",
            "",
            "| schedule | " + " | ".join(COLUMNS) + " |",
            "|---" * (len(COLUMNS) + 1) + "|",
        ]
        for name, own in groups.items():
            if name == base:
                continue
            cells = []
            for label, column in COLUMNS.items():
                ours, theirs = by_concept(own, column), by_concept(groups[base], column)
                both = sorted(ours.keys() & theirs.keys())
                digits = 0 if label.startswith(WHOLE) else 2
                cells.append(with_interval([ours[c] - theirs[c] for c in both], digits))
            text.append(f"| {name} | " + " | ".join(cells) + " |")
    for number, question in enumerate(grid["questions"], start=1):
        shown = {
            name: own for name, own in groups.items() if own[0]["schedule"] in question["schedules"]
        }
        if shown:
            path = folder / f"front-{number}.png"
            draw(question["title"], shown, path)
            text += ["", f"![{question['title']}]({path.name})"]
    return "\n".join(text)


def draw(title: str, groups: Mapping[str, Sequence[Line]], path: Path) -> None:
    """Mean delta by alignment left, a line per schedule and lambda, over the concepts that all
    of them reach there, so that no line is of easier ones; the band is one standard error."""
    figure = new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    lefts = np.linspace(70, 10, 61)
    concepts = sorted(set.intersection(*({line["concept"] for line in g} for g in groups.values())))
    for number, (name, lines) in enumerate(groups.items()):
        curves = np.array(
            [
                [
                    np.mean(
                        [
                            read_off(line, {"left": left}, delta_of(line))
                            for line in lines
                            if line["concept"] == concept
                        ]
                    )
                    for left in lefts
                ]
                for concept in concepts
            ]
        ).reshape(len(concepts), len(lefts))
        whole = np.isfinite(curves).all(axis=0)
        mean = curves[:, whole].mean(axis=0)
        look = colour(number)
        axes.plot(lefts[whole], mean, color=look, label=name)
        if len(concepts) > 1:
            error = curves[:, whole].std(axis=0, ddof=1) / math.sqrt(len(concepts))
            axes.fill_between(lefts[whole], mean - error, mean + error, color=look, alpha=0.15)
    axes.invert_xaxis()
    axes.set_xlabel("alignment left of what is erased (more erased to the right)")
    axes.set_ylabel("mean delta of held-out concepts")
    axes.set_title(f"{title} ({len(concepts)} concepts)", fontsize="medium")
    dress(axes)
    axes.legend(fontsize="small", frameon=False)
    save(figure, path)

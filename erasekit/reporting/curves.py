"""Curves of a run: losses, the entropy of the search, how far the adversary has moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from erasekit.reporting.drawing import COLOURS, dressed, new_figure, save_figure
from erasekit.reporting.run_table import Record

LOSSES = {"loss": "loss", "erase_loss": "erase", "preserve_loss": "preserve"}
STYLES: dict[str, dict[str, Any]] = {"loss": {"linewidth": 4, "alpha": 0.4}}
"""The sum of two losses would hide the larger one under it, so it is drawn broad and pale."""
SEARCH = {"entropy": "entropy of the search (nats)", "shift": "c_a moved (share of its norm)"}
DASHES = ("-", "--", ":", "-.")

Lines = Mapping[str, tuple[list[int], list[float]]]
"""Steps and values by name."""


def plot_history(history: Sequence[Record], path: Path, title: str = "") -> bool:
    """Write the curves of `history` as PNG; False, and no file, where it has nothing to plot.

    One panel for the losses (smoothed over a twentieth of the run, raw values faint), one each
    for entropy and shift where the method has them, a line per erased concept.

    Raises:
        OutputError: the file can't be written.
    """
    panels = _panels(history)
    if not panels:
        return False
    figure = new_figure(5 * len(panels), 3.6)
    figure.suptitle(title)
    for column, (label, lines) in enumerate(panels.items()):
        _draw(figure.add_subplot(1, len(panels), column + 1), label, lines)
    save_figure(figure, path)
    return True


def history_figures(history: Sequence[Record]) -> dict[str, Figure]:
    """Each panel of `plot_history` as a figure of its own, by what it shows."""
    figures = {}
    for label, lines in _panels(history).items():
        figures[label] = new_figure(4.4, 3.2)
        _draw(figures[label].add_subplot(), label, lines)
    return figures


def _panels(history: Sequence[Record]) -> dict[str, Lines]:
    losses = {name: _series(history, _loss(key)) for key, name in LOSSES.items()}
    panels = {"loss": losses}
    for key, label in SEARCH.items():
        panels[label] = {e: _series(history, _adversary(key, e)) for e in _erased(history)}
    there = {
        label: {name: line for name, line in lines.items() if line[0]}
        for label, lines in panels.items()
    }
    return {label: lines for label, lines in there.items() if lines}


def _draw(axes: Any, label: str, lines: Lines) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    for index, (name, (steps, values)) in enumerate(lines.items()):
        look = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": DASHES[index % len(DASHES)],
            **STYLES.get(name, {}),
        }
        axes.plot(steps, values, color=look["color"], alpha=0.25, linewidth=1)
        axes.plot(steps, _smoothed(values), label=name, **look)
    dressed(axes)
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
                return adversary[key]
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

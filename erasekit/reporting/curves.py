"""Curves of a run: losses, the entropy of the search, how far the adversary has moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from erasekit.files import atomic_path
from erasekit.reporting.history import Record

LOSSES = {"loss": "loss", "erase_loss": "erase", "preserve_loss": "preserve"}
STYLES: dict[str, dict[str, Any]] = {"loss": {"linewidth": 4, "alpha": 0.4}}
"""The sum of two losses would hide the larger one under it, so it is drawn broad and pale."""
SEARCH = {"entropy": "entropy of the search (nats)", "shift": "c_a moved (share of its norm)"}


def plot_history(history: Sequence[Record], path: Path, title: str = "") -> bool:
    """Write the curves of `history` as PNG; False, and no file, where it has nothing to plot.

    One panel for the losses (smoothed over a twentieth of the run, raw values faint), one each
    for entropy and shift where the method has them, a line per erased concept.

    Raises:
        OutputError: the file can't be written.
    """
    panels: list[tuple[str, dict[str, tuple[list[int], list[float]]]]] = []
    losses = {name: _series(history, _loss(key)) for key, name in LOSSES.items()}
    panels.append(("loss", {name: line for name, line in losses.items() if line[0]}))
    for key, label in SEARCH.items():
        lines = {erased: _series(history, _adversary(key, erased)) for erased in _erased(history)}
        panels.append((label, {name: line for name, line in lines.items() if line[0]}))
    panels = [(label, lines) for label, lines in panels if lines]
    if not panels:
        return False
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for column, (label, lines) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), column + 1)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        for index, (name, (steps, values)) in enumerate(lines.items()):
            colour = f"C{index}"
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
            axes.plot(steps, _smoothed(values), color=colour, label=name, **STYLES.get(name, {}))
        axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True


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

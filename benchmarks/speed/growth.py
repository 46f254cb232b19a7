"""How cost grows with erased concepts, the size of R, steps and batch: measured, and plotted."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.runs import Bench
from erasekit.files import atomic_write_json
from erasekit.training.run_folder import peak_memory_mb, versions

AXES: dict[str, tuple[int, ...]] = {
    "erased concepts": (1, 5, 10, 50),
    "erased concepts, 8 rows": (1, 5, 10, 50),
    "words of R": (100, 1000, 3000),
    "steps": (25, 50, 100, 200),
    "batch": (1, 2, 4, 8),
}
METHODS = ("random", "gumbel", "argmax")
STEPS = 50
"""Where steps are not the axis."""


def measure(path: Path) -> list[dict[str, Any]]:
    """Every point in a process of its own, so that its peak memory is its own; kept as found.

    Each has an empty cache of word features, so that a long R is embedded in the time measured.
    """
    found = read(path)
    done = {(p["axis"], p["value"], p["method"]) for p in found}
    for axis, values in AXES.items():
        methods = METHODS if axis == "words of R" else ("gumbel",)
        for value, method in itertools.product(values, methods):
            if (axis, value, method) in done:
                continue
            command = [sys.executable, "-m", "benchmarks.speed.growth", axis, str(value), method]
            with tempfile.TemporaryDirectory() as cache:
                cold = {**os.environ, "ERASEKIT_CACHE": cache}
                result = subprocess.run(
                    command, stdout=subprocess.PIPE, text=True, check=True, env=cold
                )
            found.append(json.loads(result.stdout.splitlines()[-1]))
            about = {"command": "python -m benchmarks.speed growth", "versions": versions()}
            atomic_write_json(path, {**about, "rows": found})
            print(found[-1], flush=True)
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """Finished points."""
    if not path.is_file():
        return []
    points: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return points


def point(axis: str, value: int, method: str) -> dict[str, Any]:
    """One erasure with the defaults but for one number; a short one before it warms up, with the
    model's own words, so that it embeds no other R.

    On icons a step has a row for each erased concept, unless the number of rows is given.
    """
    bench = Bench.icons()
    concepts: list[str] = ["garbage truck"]
    settings: dict[str, Any] = {"steps": STEPS}
    if axis.startswith("erased concepts"):
        objects = [c for c in bench.model.concepts if c.kind == "object"]  # one scope for all
        concepts = [c.name for c in objects if c.split == "held-out"][:value]
        settings |= {"batch_size": 8} if axis.endswith("8 rows") else {}
    elif axis == "words of R":
        settings |= {"concept_space": "english", "num_concepts": value}
    elif axis == "steps":
        settings |= {"steps": value}
    else:
        settings |= {"batch_size": value}
    warm_up = {key: value for key, value in settings.items() if key == "batch_size"}
    bench.ours(concepts[:1], 1, {**warm_up, "steps": 2}, method)
    run = bench.ours(concepts, 0, settings, method)
    return {
        "axis": axis,
        "value": value,
        "method": method,
        "seconds": round(run.seconds, 2),
        "passes": run.cost,
        "threads": torch.get_num_threads(),
        "peak_memory_mb": peak_memory_mb(),
    }


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """Seconds and passes along each axis, by the axis's first point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(AXES), figsize=(17, 3.6), layout="constrained")
    markers = dict(zip(METHODS, "so^", strict=True))
    for panel, axis in zip(panels, AXES, strict=True):
        for method in METHODS:
            own = [p for p in points if p["axis"] == axis and p["method"] == method]
            for key, style in (("seconds", "-"), ("passes", "--"), ("peak_memory_mb", ":")):
                if own:
                    values = [p[key] / own[0][key] for p in own]
                    label = f"{method}: {key.replace('peak_memory_mb', 'peak memory')}"
                    at = [p["value"] for p in own]
                    panel.plot(at, values, style, marker=markers[method], label=label)
        panel.set(xlabel=axis, xscale="log", yscale="log", ylabel=f"by {AXES[axis][0]}")
        panel.set_xticks(AXES[axis], [f"{value:,}" for value in AXES[axis]])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:.3g}")
        panel.xaxis.minorticks_off()
        panel.legend(fontsize=6)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    print(json.dumps(point(sys.argv[1], int(sys.argv[2]), sys.argv[3])))

"""Is the adversary worth its passes? Searches at matched erasure, against random words.

Each run is scored along the way (benchmarks/tuning), and read off at the first point from which on
ESR-1 is 90 % or more: the same strength for all. Drift, the change of the noise predictions for
held-out words, varies least; delta is what it means for their images.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tuning.__main__ import finished, first_gone, jobs_of, key_of, run
from erasekit.metrics.statistics import crossed_interval
from erasekit.models.loading import load_model
from erasekit.plugin.registry import Registry

GRID = Path(__file__).with_suffix(".toml")
AGAINST = "random"
HEADER = (
    *("search", "gone in", "passes", "drift", "drift - random's"),
    *("delta", "delta - random's", "entropy of pi"),
)


def measure(path: Path) -> list[dict[str, Any]]:
    """Run what `path` has no line for; several processes may share it.

    Returns:
        The finished runs of the grid.
    """
    wanted = jobs(load_model("icons", Registry()).descriptor.defaults)
    run(wanted, path)
    known = finished(path)
    return [known[key] for job in wanted if (key := key_of(job)) in known]


def jobs(defaults: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs of the grid, each with the model's defaults, so that it is of these alone."""
    return [
        {**job, "defaults": {**defaults["*"], **defaults.get(job["method"], {})}}
        for job in jobs_of(tomllib.loads(GRID.read_text(encoding="utf-8")))
    ]


def read(path: Path) -> list[dict[str, Any]]:
    """Finished runs, of other grids and defaults too."""
    return list(finished(path).values())


def report(lines: Sequence[dict[str, Any]]) -> str:
    """A row per search, as markdown, with paired differences to random words on as many z_t."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(named(line), []).append(line)
    bases: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for line in lines:
        if (name := named(line)) == _against(line) and (point := first_gone(line)):
            bases.setdefault(name, {})[_pair(line)] = point
    rows = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    for name, own in groups.items():
        points = {_pair(line): point for line in own if (point := first_gone(line))}
        base = bases.get(_against(own[0]), {})
        cells = [f"`{name}`", f"{len(points)} of {len(own)}"]
        cells.append(_mean([point["passes"] for point in points.values()], ",.0f"))
        for value in (drift, delta):
            cells.append(_mean([value(point) for point in points.values()]))
            both = points.keys() & base.keys() if name != _against(own[0]) else ()
            cells.append(_paired([value(points[pair]) - value(base[pair]) for pair in both]))
        found = [search.get("entropy") for line in own for search in line["adversary"] or ()]
        cells.append(_mean([entropy for entropy in found if entropy is not None]))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def named(line: Mapping[str, Any]) -> str:
    """The search of a run: its method, and what is not the default."""
    settings = " ".join(f"{key}={value}" for key, value in line["settings"].items())
    return f"{line['method']} {settings}".strip()


def _against(line: Mapping[str, Any]) -> str:
    """The name of what a run's search is held against."""
    number = {k: v for k, v in line["settings"].items() if k == "trajectories"}
    return named({"method": AGAINST, "settings": number})


def drift(point: Mapping[str, Any]) -> float:
    """Over the six near and 24 far words of the yardstick."""
    return float(6 * point["drift_near"] + 24 * point["drift_far"]) / 30


def delta(point: Mapping[str, Any]) -> float:
    """Over the six near and four far concepts that are drawn."""
    return float(6 * point["delta_near"] + 4 * point["delta_far"]) / 10


def _pair(line: Mapping[str, Any]) -> tuple[str, int]:
    return line["concept"], line["seed"]


def _mean(values: Sequence[float], form: str = ".2f") -> str:
    return format(float(np.mean(values)), form) if values else ""


def _paired(differences: Sequence[float]) -> str:
    """Their mean, with a t interval over the runs."""
    if not differences:
        return ""
    found = crossed_interval(np.asarray(differences)[None, :, None])
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"

"""Are the words that a search keeps those that the erasure harms most?

Each run measures the harm of every word of R along the way (`harm_every`), on z_t that all runs
share, and ranks what it kept then: 0 is the most harmed word, 1/2 what random words have.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.front.fronts import with_interval
from benchmarks.tuning.__main__ import claimed, finished, key_of
from erasekit.concepts import Erasure
from erasekit.models.loading import load_model
from erasekit.plugin.registry import Registry
from erasekit.reporting.figures import colour, dress, new_figure, save
from erasekit.reporting.run_table import ranks
from erasekit.training.erase import erase


def jobs_of(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every run: all searches of one concept stand together."""
    own = grid["harm"]
    for seed, concept in itertools.product(own["seeds"], own["concepts"]):
        for name, search in own["searches"].items():
            yield {
                "search": name,
                "method": search["method"],
                "settings": {**own["settings"], **search.get("settings", {})},
                "concept": concept,
                "seed": seed,
            }


def run(jobs: Sequence[Mapping[str, Any]], records: Path, until: float = math.inf) -> None:
    """Run the jobs that `records` has no line for; several processes may share the file.

    Args:
        until: no run begins later, by the monotonic clock.
    """
    registry = Registry()
    model = load_model("icons", registry)
    for job in jobs:
        with claimed(records, dict(job)) as ours:
            if not ours or key_of(dict(job)) in finished(records):
                continue
            if time.monotonic() > until:
                return
            began = time.perf_counter()
            edit = erase(
                model,
                Erasure((model.concept(job["concept"]),)),
                job["method"],
                registry=registry,
                seed=job["seed"],
                settings=job["settings"],
            )
            last = edit.history[-1]["adversary"][0]
            line = {
                "key": key_of(dict(job)),
                **job,
                "model": model.hash,
                "ranks": ranks(edit.history),
                "entropy": last["entropy"],
                "uniform": last.get("uniform"),
            }
            with records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            found = " ".join(f"{r['step']}:{r['rank']:.2f}" for r in line["ranks"])
            seconds = time.perf_counter() - began
            print(f"{job['search']} {job['concept']} | {found} {seconds:.0f} s", flush=True)


def report(lines: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Mean rank of each search as markdown, over runs' means, and a figure of it by step."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line["search"], []).append(line)
    text = [
        "Share of R that is harmed more than what is kept: mean [95 % interval over erased "
        "concepts] (concepts).",
        "",
        "| search | all measured steps | last measured step | entropy of pi, at most ln K |",
        "|---|---|---|---|",
    ]
    for name, own in groups.items():
        whole = _by_concept(own, lambda ranked: float(np.mean([r["rank"] for r in ranked])))
        last = _by_concept(own, lambda ranked: float(ranked[-1]["rank"]))
        known = [(line["entropy"], line["uniform"]) for line in own if line["uniform"]]
        entropy = " of ".join(f"{v:.2f}" for v in np.mean(known, axis=0)) if known else ""
        text.append(f"| {name} | {with_interval(whole)} | {with_interval(last)} | {entropy} |")
    path = folder / "harm-ranks.png"
    draw(groups, path)
    return "\n".join([*text, "", f"![rank of what is kept]({path.name})"])


def _by_concept(lines: Sequence[Mapping[str, Any]], value: Any) -> list[float]:
    found: dict[str, list[float]] = {}
    for line in lines:
        found.setdefault(line["concept"], []).append(value(line["ranks"]))
    return [float(np.mean(values)) for values in found.values()]


def draw(groups: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Mean rank by step, a line per search."""
    figure = new_figure(5.6, 3.8)
    axes = figure.add_subplot()
    for number, (name, lines) in enumerate(groups.items()):
        by_step: dict[int, list[float]] = {}
        for line in lines:
            for ranked in line["ranks"]:
                by_step.setdefault(ranked["step"], []).append(ranked["rank"])
        steps = sorted(by_step)
        means = [float(np.mean(by_step[step])) for step in steps]
        axes.plot(steps, means, marker="o", color=colour(number), label=name)
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_ylabel("share of R harmed more than what is kept")
    dress(axes)
    axes.legend(fontsize="small", frameon=False)
    save(figure, path)

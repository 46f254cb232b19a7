"""`python -m benchmarks.speed WHAT`: see README.md beside this file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import adversary, growth, levers, many, quality, solvers, start, timing
from erasekit.files import atomic_write_json
from erasekit.training.run_folder import versions

RESULTS = Path(__file__).parents[1] / "results" / "speed"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed")
    parser.add_argument(
        "what",
        choices=(
            "published",
            "ablation",
            "overhead",
            "drawing",
            "benching",
            "quality",
            "growth",
            "growth-plot",
            "adversary",
            "adversary-earlier",
            "adversary-32-words",
            "start",
            "levers",
            "solvers",
            "many",
        ),
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each runs, in turn")
    parser.add_argument(
        "--concepts",
        default=",".join(quality.CONCEPTS),
        help="quality: what is erased; 'unseen' are five others",
    )
    parser.add_argument("--seeds", default="0,1,2", help="quality: erasure seeds")
    parser.add_argument(
        "--schedules",
        default=",".join(quality.SCHEDULES),
        help="quality: which schedules",
    )
    parser.add_argument(
        "--edits", type=Path, help="quality: folder to keep the trained weights in, to look again"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    if options.what == "quality":
        seeds = [int(seed) for seed in options.seeds.split(",")]
        path = options.results / "quality.jsonl"
        schedules = [quality.SCHEDULES[name] for name in options.schedules.split(",")]
        named = options.concepts
        concepts = quality.UNSEEN if named == "unseen" else named.split(",")
        lines = quality.measure(path, concepts, seeds, schedules, options.edits)
        text = quality.report(lines)
    elif options.what == "adversary":
        text = adversary.report(adversary.measure(options.results / "adversary.jsonl"))
    elif options.what in ("adversary-earlier", "adversary-32-words"):
        text = adversary.report(adversary.read(options.results / f"{options.what}.jsonl"))
    elif options.what == "growth":
        points = growth.measure(options.results / "growth.json")
        growth.plot(points, options.results / "growth.png")
        text = table(points)
    elif options.what == "growth-plot":
        growth.plot(growth.read(options.results / "growth.json"), options.results / "growth.png")
        text = ""
    else:
        measures: dict[str, Callable[[int], list[dict[str, Any]]]] = {
            "published": timing.against_published,
            "ablation": timing.ablations,
            "overhead": timing.overhead,
            "drawing": timing.drawing,
            "benching": timing.benching,
            "start": start.measure,
            "levers": levers.measure,
            "solvers": solvers.measure,
            "many": many.measure,
        }
        rows = measures[options.what](options.rounds)
        _kept(options.results / f"{options.what}.json", rows)
        text = table(rows)
    print(text)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a markdown table."""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(_text(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _kept(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows with how they came about."""
    about = {
        "command": " ".join(["python -m benchmarks.speed", *sys.argv[1:]]),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    atomic_write_json(path, {**about, "rows": rows})


if __name__ == "__main__":
    main()

"""`python -m benchmarks.front run | show | harm | harm-show`: see README.md beside this file."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.front import harm
from benchmarks.front.along import AlongTheRun, Enough, Look, Yardstick
from benchmarks.front.fronts import report
from benchmarks.tuning.__main__ import claimed, finished, key_of
from erasekit.concepts import Erasure
from erasekit.models.loading import load_model
from erasekit.plugin.registry import Registry
from erasekit.training.erase import erase

GRID = Path(__file__).with_name("icons.toml")
RESULTS = Path(__file__).parents[1] / "results" / "front"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front")
    parser.add_argument("what", choices=("run", "show", "harm", "harm-show"))
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--minutes", type=float, help="begin no further run after so many")
    options = parser.parse_args()
    until = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    grid = tomllib.loads(options.grid.read_text(encoding="utf-8"))
    options.results.mkdir(parents=True, exist_ok=True)
    records = options.results / f"{options.grid.stem}.jsonl"
    ranked = options.results / f"{options.grid.stem}-harm.jsonl"
    if options.what == "run":
        run(list(jobs_of(grid)), records, until)
    elif options.what == "harm":
        harm.run(list(harm.jobs_of(grid)), ranked, until)
    elif options.what == "show":
        print(report(grid, list(finished(records).values()), options.results))
    else:
        print(harm.report(list(finished(ranked).values()), options.results))


def jobs_of(grid: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every run of a grid: by turn, seed and concept, whose schedules of a turn stand together."""
    turns = sorted({schedule["turn"] for schedule in grid["schedules"].values()})
    for turn, seed in itertools.product(turns, grid["seeds"]):
        for concept in grid["concepts"]:
            for name, schedule in grid["schedules"].items():
                if schedule["turn"] != turn:
                    continue
                for weight in schedule["keep_weight"]:
                    yield {
                        "schedule": name,
                        "method": schedule["method"],
                        "recipe": schedule["recipe"],
                        "settings": {
                            **grid["settings"],
                            **schedule.get("settings", {}),
                            "keep_weight": weight,
                            "steps": max(grid["at"]),
                        },
                        "concept": concept,
                        "seed": seed,
                        "at": grid["at"],
                    }


def run(jobs: list[dict[str, Any]], records: Path, until: float = math.inf) -> None:
    """Run the jobs that `records` has no line for; several processes may share the file.

    Args:
        until: no run begins later, by the monotonic clock.
    """
    registry = Registry()
    model = load_model("icons", registry)
    looks: dict[str, Look] = {}
    for job in jobs:
        with claimed(records, job) as ours:
            if not ours or key_of(job) in finished(records):
                continue
            if time.monotonic() > until:
                return
            began = time.perf_counter()
            concept = job["concept"]
            erasure = Erasure((model.concept(concept),))
            if concept not in looks:
                looks = {concept: Look(model, registry, erasure, Yardstick())}
            watch = AlongTheRun(looks[concept], job["at"])
            with suppress(Enough):
                erase(
                    model,
                    erasure,
                    job["method"],
                    registry=registry,
                    seed=job["seed"],
                    recipe=job["recipe"],
                    settings=job["settings"],
                    callbacks=[watch],
                )
            line = {
                "key": key_of(job),
                **job,
                "model": model.hash,
                "yardstick": asdict(Yardstick()),
                "before": looks[concept].left,
                "kept": looks[concept].kept,
                "points": watch.points,
                "adversary": watch.adversary,
            }
            with records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(_headline(line), f"{time.perf_counter() - began:.0f} s", flush=True)


def _headline(line: dict[str, Any]) -> str:
    points = " ".join(
        f"{p['step']}:{p['left']:.0f},{100 * p['esr1']:.0f}%,{100 * p['still']:.0f}%,"
        f"{sum(p['delta'].values()) / len(p['delta']):.2f}"
        for p in line["points"]
    )
    weight = line["settings"]["keep_weight"]
    return f"{line['schedule']} {weight:g} {line['concept']} s{line['seed']} | {points}"


if __name__ == "__main__":
    main()

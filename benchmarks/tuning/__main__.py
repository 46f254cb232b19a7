"""`python -m benchmarks.tuning GRID.toml RESULTS.jsonl`: run what is missing, a line per run.

A grid has `[[runs]]` tables: `method` (or a list), `settings` (a value may be a list: all
combinations are run), `concepts`, `seeds` and `at` (the steps that are scored, or "end": the
finished edit, applied as a user does; settings that leave one concept in place are not tried on
the next). Keys at the top are defaults for all; "published", the schedule of benchmarks/speed, has
settings of its own alone. `--show` prints the results instead.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.tuning.along import GONE, AlongTheRun, Yardstick, watch_method
from benchmarks.tuning.finished import END, watch_finished
from benchmarks.tuning.published import NAME, watch_published
from erasekit.models.loading import LoadedModel, load_model
from erasekit.plugin.registry import Registry


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning")
    parser.add_argument("grid", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--show", action="store_true", help="print what was found, run nothing")
    options = parser.parse_args()
    jobs = list(jobs_of(tomllib.loads(options.grid.read_text(encoding="utf-8"))))
    if options.show:
        show(jobs, finished(options.results))
    else:
        run(jobs, options.results)


def jobs_of(grid: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every run of a grid: method, settings, concept, seed, at."""
    top = {key: value for key, value in grid.items() if key != "runs"}
    for entry in grid["runs"]:
        merged = {**top, **entry}
        shared = {} if merged["method"] == NAME else top.get("settings", {})
        merged["settings"] = {**shared, **entry.get("settings", {})}
        keys = list(merged["settings"])
        values = [_listed(merged["settings"][key]) for key in keys]
        for method, combination in itertools.product(
            _listed(merged["method"]), itertools.product(*values)
        ):
            for concept, seed in itertools.product(merged["concepts"], merged["seeds"]):
                yield {
                    "method": method,
                    "settings": dict(zip(keys, combination, strict=True)),
                    "concept": concept,
                    "seed": seed,
                    "at": merged["at"],
                }


def run(jobs: list[dict[str, Any]], results: Path) -> None:
    """Run the jobs that `results` has no line for; several processes may share the file."""
    registry = Registry()
    model = load_model("icons", registry)
    watches: dict[str, AlongTheRun] = {}
    for job in jobs:
        with claimed(results, job) as ours:
            known = finished(results)
            if not ours or key_of(job) in known or _fails(job, known):
                continue
            began = time.perf_counter()
            watch = watch_job(model, registry, job, watches)
            found = {**job, "model": model.hash, "yardstick": asdict(Yardstick())}
            found |= {"points": watch.points, "adversary": watch.adversary}
            line = json.dumps({"key": key_of(job), **found}, ensure_ascii=False)
            with results.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            print(_headline(found), f"{time.perf_counter() - began:.0f} s", flush=True)


def watch_job(
    model: LoadedModel, registry: Registry, job: dict[str, Any], watches: dict[str, AlongTheRun]
) -> AlongTheRun:
    """Run one job; `watches` are those of concepts whose finished edits were scored before."""
    if job["at"] == END:
        what = (job["method"], job["concept"], job["seed"], job["settings"])
        return watch_finished(model, registry, *what, Yardstick(), watches)
    how = (job["concept"], job["seed"], job["settings"], job["at"], Yardstick())
    if job["method"] == NAME:
        return watch_published(model, registry, *how)
    return watch_method(model, registry, job["method"], *how)


def _fails(job: dict[str, Any], known: dict[str, dict[str, Any]]) -> bool:
    """Whether the finished edit of another concept has already ruled these settings out."""
    if job["at"] != END:
        return False
    same = [{**job, "concept": line["concept"]} for line in known.values()]
    lines = [known[key] for other in same if (key := key_of(other)) in known]
    return any(line["points"][-1]["esr1"] < GONE for line in lines)


def finished(results: Path) -> dict[str, dict[str, Any]]:
    """Finished runs by key."""
    if not results.is_file():
        return {}
    lines = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    return {line["key"]: line for line in lines}


def show(jobs: list[dict[str, Any]], found: dict[str, dict[str, Any]]) -> None:
    """The runs as a table, and each setting's mean over concepts and seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        if line := found.get(key_of(job)):
            groups.setdefault(f"{job['method']} {_short(job['settings'])}", []).append(line)
    for name, lines in groups.items():
        print(name)
        for line in lines:
            print("   ", _headline(line))
        reached = [point for line in lines if (point := first_gone(line))]
        if reached:
            means = {
                key: sum(point[key] for point in reached) / len(reached)
                for key in ("step", "passes", "drift_near", "drift_far", "delta_near", "delta_far")
            }
            text = ", ".join(f"{key} {value:.2f}" for key, value in means.items())
            print(f"    -> gone in {len(reached)} of {len(lines)}: {text}")


def first_gone(line: dict[str, Any]) -> dict[str, Any] | None:
    """The first point of a run from which on the concept is gone."""
    point = None
    for candidate in reversed(line["points"]):
        if candidate["esr1"] < GONE:
            break
        point = candidate
    return point


def _headline(line: dict[str, Any]) -> str:
    points = " ".join(
        f"{p['step']}:{100 * p['esr1']:.0f}%,{p['drift_near']:.1f},{p['drift_far']:.1f}"
        + (f",{p['delta_near']:+.1f},{p['delta_far']:+.1f}" if "delta_near" in p else "")
        for p in line["points"]
    )
    return (
        f"{line['method']} {line['concept']} s{line['seed']} {_short(line['settings'])} | {points}"
    )


def _short(settings: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def key_of(job: dict[str, Any]) -> str:
    """What a job is known by in the results."""
    return json.dumps(job, sort_keys=True)


@contextmanager
def claimed(results: Path, job: dict[str, Any]) -> Iterator[bool]:
    """Whether the job is this process's for the block; a killed process holds on to none."""
    folder = results.with_suffix(".claims")
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(key_of(job).encode()).hexdigest()[:16]
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    main()

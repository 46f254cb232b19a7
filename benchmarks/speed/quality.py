"""Is it as good? The schedules on the same concepts, seeds and noises, as paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.runs import LEARNING_RATE, PUBLISHED_STEPS, SAME_STEPS, Bench, Eye, Run
from erasekit.metrics.statistics import crossed_interval
from erasekit.records import Estimate, content_key

PUBLISHED, SAME, DEFAULT = "published", "same steps", "erasekit"
"""The published schedule; erasekit with its lambda and steps; erasekit as it comes."""
SCHEDULES = (PUBLISHED, SAME, DEFAULT)
CONCEPTS = ("garbage truck", "church", "elephant", "pistol", "apple")
SEEDS = (0, 1, 2)
WITHIN_DELTA, WITHIN_ESR = 0.5, 5.0
"""What counts as equal: points of delta, and points of ESR-1."""


def measure(
    path: Path,
    concepts: Sequence[str],
    seeds: Sequence[int],
    schedules: Sequence[str] = SCHEDULES,
) -> list[dict[str, Any]]:
    """Run what `path` has no line for; the schedules of a concept and seed in turn."""
    bench = Bench.icons()
    eye = Eye(bench)
    lines = read(path)
    done, wanted = {line["key"] for line in lines}, set()
    for concept in concepts:
        for seed in seeds:
            for schedule in schedules:
                key = _key(bench, schedule, concept, seed)
                wanted.add(key)
                if key in done:
                    continue
                if schedule == PUBLISHED:
                    run = bench.published(concept, seed)
                else:
                    run = bench.ours([concept], seed, SAME_STEPS if schedule == SAME else None)
                line = {"key": key, **_line(schedule, concept, seed, run, eye)}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                lines.append(line)
                print(
                    f"{schedule}, {concept}, seed {seed}: ESR-1 {100 * line['esr1']:.0f} %, "
                    f"{line['passes']} passes, {line['seconds']:.1f} s",
                    flush=True,
                )
    return [line for line in lines if line["key"] in wanted]


def _key(bench: Bench, schedule: str, concept: str, seed: int) -> str:
    """Of what a line depends on, so that one of other defaults is never taken for it."""
    defaults = bench.model.descriptor.defaults
    how: Any = (PUBLISHED_STEPS, LEARNING_RATE, defaults["*"]["num_concepts"])
    if schedule != PUBLISHED:
        how = {**defaults["*"], **defaults.get("gumbel", {})}
    if schedule == SAME:
        how |= SAME_STEPS
    return content_key([bench.model.hash, schedule, how, concept, seed])


def _line(schedule: str, concept: str, seed: int, run: Run, eye: Eye) -> dict[str, Any]:
    base, after = eye.before(concept), eye.look(concept, run.tensors)
    return {
        "schedule": schedule,
        "concept": concept,
        "seed": seed,
        "settings": dict(run.settings),
        "threads": torch.get_num_threads(),
        "passes": run.cost,
        "seconds": run.seconds,
        "esr1": after["esr1"],
        "before": base["kept"],
        "after": after["kept"],
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Finished lines."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def deltas(
    lines: Sequence[dict[str, Any]], schedule: str
) -> tuple[np.ndarray, list[str], list[str]]:
    """delta per (erased, kept) pair, noise and run, NaN where a run has no such pair.

    Returns:
        [pairs, noises, runs], which erased concept each run is of, and which kept one each pair,
        since a kept concept has the same noises whatever is erased.
    """
    own = sorted(
        (line for line in lines if line["schedule"] == schedule),
        key=lambda line: (line["concept"], line["seed"]),
    )
    pairs = list(dict.fromkeys((line["concept"], kept) for line in own for kept in line["after"]))
    noises = len(next(iter(own[0]["after"].values())))
    found = np.full((len(pairs), noises, len(own)), np.nan)
    for r, line in enumerate(own):
        for kept, after in line["after"].items():
            before = line["before"][kept]
            found[pairs.index((line["concept"], kept)), :, r] = np.subtract(before, after)
    return found, [line["concept"] for line in own], [kept for _, kept in pairs]


def report(lines: Sequence[dict[str, Any]]) -> str:
    """The comparison as markdown: each schedule, and how erasekit's differ from the published."""
    rows, sentences = [], []
    theirs, runs, kept = deltas(lines, PUBLISHED)
    for name in SCHEDULES:
        own = [line for line in lines if line["schedule"] == name]
        if not own:
            continue
        values, _, _ = deltas(lines, name)
        esr1 = 100 * float(np.mean([line["esr1"] for line in own]))
        passes = float(np.mean([line["passes"] for line in own]))
        seconds = float(np.mean([line["seconds"] for line in own]))
        estimate = crossed_interval(values, strata=runs, noises=kept)
        rows.append(
            f"| {name} | {esr1:.1f} % | {_text(estimate)} | {passes:,.0f} | {seconds:.0f} |"
        )
        if name == PUBLISHED:
            least, longest = passes, seconds
            continue
        difference = crossed_interval(values - theirs, strata=runs, noises=kept)
        esr = esr_difference(lines, name)
        sentences.append(
            f"{name} - published: delta {_text(difference)} "
            f"({verdict(difference, WITHIN_DELTA, -1)}), ESR-1 {_text(esr)} points "
            f"({verdict(esr, WITHIN_ESR, 1)}); {least / passes:.1f} times fewer passes, "
            f"{longest / seconds:.1f} times less time."
        )
    header = "| schedule | ESR-1 | mean delta, held-out | UNet passes | seconds |"
    return "\n".join([header, "|---|---|---|---|---|", *rows, "", *sentences])


def esr_difference(lines: Sequence[dict[str, Any]], schedule: str) -> Estimate:
    """Mean difference of ESR-1 in points to the published schedule, paired, with a t interval."""
    by_run: dict[tuple[str, int], dict[str, float]] = {}
    for line in lines:
        by_run.setdefault((line["concept"], line["seed"]), {})[line["schedule"]] = line["esr1"]
    apart = np.array([100 * (both[schedule] - both[PUBLISHED]) for both in by_run.values()])
    return crossed_interval(apart[None, :, None])


def verdict(estimate: Estimate, within: float, better: int) -> str:
    """Whether the interval lies within the limits, in words.

    Args:
        better: the sign of a difference that favours erasekit.
    """
    low, high = sorted((better * estimate.low, better * estimate.high))
    if math.isnan(low):
        return "no interval"
    if -within <= low and high <= within:
        return f"equal within {within:g}"
    if low >= -within:
        return f"not worse by more than {within:g}"
    return f"not shown to be equal within {within:g}"


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"

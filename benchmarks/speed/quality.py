"""Is it as good? The schedules on the same concepts, seeds and noises, as paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.runs import (
    DDIM_8,
    EARLIER,
    FAST,
    FAST_STEPS,
    FEW_WORDS,
    LEARNING_RATE,
    PUBLISHED_STEPS,
    SAME_LAMBDA,
    Bench,
    Eye,
    Run,
)
from erasekit.bench.records import content_key
from erasekit.files import atomic_write_json
from erasekit.metrics.scores import Estimate
from erasekit.metrics.statistics import crossed_interval
from erasekit.models.tensor_files import load_tensors, save_tensors
from erasekit.training.plan import resolve_settings

SCHEDULE = "losses on z0, t in bins, pi by the keep term"
"""Of published.py; when quality-earlier.jsonl came it had losses on epsilon and t on the grid."""
PUBLISHED: dict[str, dict[str, Any]] = {
    "published": {"learning_rate": LEARNING_RATE},
    "published, 8 solver steps": {"learning_rate": LEARNING_RATE, "ddim_steps": 8},
    "published, fast": {"learning_rate": FAST},
}
"""The published schedule and its settings, with the steps that the tuning rule chose for the rate;
with 8 solver steps those of 50."""
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "erasekit": ("published", {}),
    "erasekit, 32 words": ("published", FEW_WORDS),
    "erasekit, 8 steps of DDIM": ("published", DDIM_8),
    "erasekit, 6 trajectories": ("published", EARLIER),
    "erasekit, published lambda": ("published", SAME_LAMBDA),
    "erasekit, fast": ("published, fast", FAST_STEPS),
}
"""erasekit as it comes, as it came before that (three times), at the published lambda, and at the
larger rate: what each is held against, and its settings."""
SCHEDULES = {name.replace(", ", "-").replace(" ", "-"): name for name in (*PUBLISHED, *OURS)}
"""By what the command line calls them."""
CONCEPTS = ("garbage truck", "church", "elephant", "pistol", "apple")
UNSEEN = ("traffic light", "radio", "man", "mouth", "crown")
"""To look again on: the first held-out object of each of the first five families that have neither
a tuning concept nor one of `CONCEPTS`, in the model's own order."""
SEEDS = (0, 1, 2)
WITHIN_DELTA, WITHIN_ESR = 0.5, 5.0
"""What counts as equal: points of delta, and points of ESR-1."""
COSTS = ("passes", "seconds")


ERASED_IMAGES, KEPT_IMAGES = 60, 12
"""Starting noises, of what is erased and of each held-out concept."""


def measure(
    path: Path,
    concepts: Sequence[str],
    seeds: Sequence[int],
    schedules: Sequence[str] = tuple(SCHEDULES.values()),
    edits: Path | None = None,
) -> list[dict[str, Any]]:
    """Run what `path` has no line for; the schedules of a concept and seed in turn.

    Args:
        path: of the finished lines.
        edits: folder of the trained weights, so that they can be looked at again with more
            pictures and not be trained again; several processes may share it.
    """
    bench = Bench.icons()
    eye = Eye(bench, ERASED_IMAGES, KEPT_IMAGES)
    found = []
    for concept in concepts:
        for seed in seeds:
            for schedule in schedules:
                key = _key(bench, schedule, concept, seed)
                looked = content_key([key, ERASED_IMAGES, KEPT_IMAGES])
                done = {line["key"]: line for line in read(path)}
                if looked not in done:
                    run = _run(bench, schedule, concept, seed, edits and edits / key)
                    line = {"key": looked, **_line(schedule, concept, seed, run, eye)}
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                    done[looked] = line
                    print(
                        f"{schedule}, {concept}, seed {seed}: ESR-1 {100 * line['esr1']:.0f} %, "
                        f"{line['passes']} passes, {line['seconds']:.1f} s",
                        flush=True,
                    )
                found.append(done[looked])
    return found


def _run(bench: Bench, schedule: str, concept: str, seed: int, folder: Path | None) -> Run:
    """Of `folder`, or made now and kept there."""
    if folder is not None and (folder / "run.json").is_file():
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return Run(load_tensors(folder / "edit.safetensors")[0], **about)
    if schedule in PUBLISHED:
        run = bench.published(concept, seed, **PUBLISHED[schedule])
    else:
        run = bench.ours([concept], seed, OURS[schedule][1])
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / "edit.safetensors", dict(run.tensors))
        about = {k: v for k, v in vars(run).items() if k != "tensors"}
        atomic_write_json(folder / "run.json", about)
    return run


def _key(bench: Bench, schedule: str, concept: str, seed: int) -> str:
    """Of what a run depends on, so that one of other defaults is never taken for it."""
    model = bench.model.descriptor
    how: Any
    if schedule in PUBLISHED:
        own = PUBLISHED[schedule]
        rate = own["learning_rate"]
        how = (SCHEDULE, PUBLISHED_STEPS[rate], rate, model.defaults["*"]["num_concepts"])
        how += (own["ddim_steps"],) if "ddim_steps" in own else ()
    else:
        method = bench.registry.method("gumbel")
        groups = resolve_settings(method, bench.registry, model, overrides=OURS[schedule][1])
        how = [group.model_dump() for group in groups]
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
        "esr1": float(np.mean(after["gone"])),
        "gone": [bool(gone) for gone in after["gone"]],
        "before": base["kept"],
        "after": after["kept"],
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Finished lines."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def deltas(lines: Sequence[dict[str, Any]]) -> tuple[np.ndarray, list[str], list[str]]:
    """delta per (erased, kept) pair, noise and run of one schedule.

    Returns:
        [pairs, noises, runs], NaN where a run has no such pair; which erased concept each run is
        of; and which kept one each pair, since that has the same noises whatever is erased.
    """
    own = sorted(lines, key=_pair)
    pairs = list(dict.fromkeys((line["concept"], kept) for line in own for kept in line["after"]))
    noises = len(next(iter(own[0]["after"].values())))
    found = np.full((len(pairs), noises, len(own)), np.nan)
    for r, line in enumerate(own):
        for kept, after in line["after"].items():
            before = line["before"][kept]
            found[pairs.index((line["concept"], kept)), :, r] = np.subtract(before, after)
    return found, [line["concept"] for line in own], [kept for _, kept in pairs]


def report(lines: Sequence[dict[str, Any]]) -> str:
    """The comparison as markdown: each schedule, and how erasekit's differ from the published.

    A difference is over the concepts and seeds that both schedules were run for.
    """
    rows, sentences = [], []
    groups = {
        name: [line for line in lines if line["schedule"] == name] for name in (*PUBLISHED, *OURS)
    }
    for name, own in groups.items():
        if not own:
            continue
        values, runs, kept = deltas(own)
        passes, seconds = (float(np.mean([line[key] for line in own])) for key in COSTS)
        esr1 = 100 * float(np.mean([line["esr1"] for line in own]))
        estimate = crossed_interval(values, strata=runs, noises=kept)
        rows.append(
            f"| {name} | {len(own)} | {esr1:.1f} % | {_text(estimate)} | {passes:,.0f} | "
            f"{seconds:.0f} |"
        )
        if name in OURS and (theirs := groups[OURS[name][0]]):
            sentences.append(_compared(own, theirs))
    header = "| schedule | runs | ESR-1 | mean delta, held-out | UNet passes | seconds |"
    return "\n".join([header, "|---" * 6 + "|", *rows, "", *sentences])


def _compared(own: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> str:
    ours_by, theirs_by = ({_pair(line): line for line in some} for some in (own, theirs))
    both = sorted(ours_by.keys() & theirs_by.keys())
    own, theirs = [ours_by[pair] for pair in both], [theirs_by[pair] for pair in both]
    values, runs, kept = deltas(own)
    difference = crossed_interval(values - deltas(theirs)[0], strata=runs, noises=kept)
    esr = esr_difference(own, theirs)
    passes, seconds = (
        [line[key] / other[key] for line, other in zip(theirs, own, strict=True)] for key in COSTS
    )
    return (
        f"{own[0]['schedule']} - {theirs[0]['schedule']}, {len(both)} runs: delta "
        f"{_text(difference)} ({verdict(difference, WITHIN_DELTA, -1)}), ESR-1 {_text(esr)} points "
        f"({verdict(esr, WITHIN_ESR, 1)}); {np.median(passes):.1f} times fewer passes, "
        f"{np.median(seconds):.1f} times less time [{min(seconds):.1f} to {max(seconds):.1f}]."
    )


def esr_difference(own: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> Estimate:
    """Mean difference of ESR-1 in points of runs in the same order, over their noises.

    All concepts share the noises, as the concepts of delta do: [concepts, noises, runs].
    """
    concepts = list(dict.fromkeys(line["concept"] for line in own))
    apart = np.full((len(concepts), len(own[0]["gone"]), len(own)), np.nan)
    for r, (a, b) in enumerate(zip(own, theirs, strict=True)):
        after, before = np.array(a["gone"], float), np.array(b["gone"], float)
        apart[concepts.index(a["concept"]), :, r] = 100 * (after - before)
    runs = [line["concept"] for line in own]
    return crossed_interval(apart, strata=runs, noises=["erased"] * len(concepts))


def _pair(line: dict[str, Any]) -> tuple[str, int]:
    return line["concept"], line["seed"]


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
    if low > 0:
        return "better"
    if low >= -within:
        return f"not worse by more than {within:g}"
    return f"not shown to be equal within {within:g}"


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"

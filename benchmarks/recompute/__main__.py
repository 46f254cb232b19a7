"""`python -m benchmarks.recompute STORE`: do the numbers of the store's last sweep come out again?

Three columns: what `erasekit bench show` says, what the scores in the records give, and what the
saved images give when they are scored anew. The records must agree to 1e-9. An image's alignment
must agree to --tolerance (points of 100 * cosine), and its rank, but for classes that lie within
the tolerance of each other; then all rates agree to 1e-9 and a delta to twice the tolerance. On the
machine that made the store only the last bits of a float32 differ (unit vectors are made in another
order). Exit code 1 on a difference.

Points along a run and intervals are not looked at. Ranks by a classifier with classes of its own,
and measures other than NER, are taken from the records; a line says so.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.recompute.images import RATE, Check, Classes, Clip
from benchmarks.recompute.numbers import Numbers, numbers_of, reported
from benchmarks.recompute.records import (
    DamagedError,
    Run,
    Sweep,
    content_key,
    read_json,
    read_sweep,
)

EXACT = 1e-9
"""How far sums of the same numbers in another order may lie apart."""
SHOWN = 10
"""Differences of single images that are printed."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recompute")
    parser.add_argument("store", type=Path, help="folder of records")
    parser.add_argument("--against", type=Path, help="a bench.json [default: bench show --json]")
    parser.add_argument("--scorer", help="open_clip folder, or MODEL/TAG [default: as recorded]")
    parser.add_argument("--suite", help="the suite's name or TOML file [default: as recorded]")
    parser.add_argument("--model", help="the model's name or folder [default: as recorded]")
    parser.add_argument("--tolerance", type=float, default=2e-4, help="of an alignment [2e-4]")
    parser.add_argument("--concepts", action="store_true", help="print the kept concepts too")
    options = parser.parse_args(arguments)
    try:
        sweep = read_sweep(options.store)
        told = reported(
            read_json(options.against)
            if options.against
            else erasekit("bench", "show", options.store, "--sweep", sweep.key)
        )
        check = Check(
            options.store,
            Clip(options.scorer or _scorer(sweep)),
            options.tolerance,
            _detector(sweep),
        )
        seen = _from_images(sweep, check, _classes(sweep, options))
    except DamagedError as damage:
        print(f"DIFFERENT: {damage}")
        return 1
    from_images = numbers_of(seen)
    kept = {f"{name}, caption" for run in sweep.runs for name in run.sets}
    from_images = {k: v for k, v in from_images.items() if k[2] not in kept}
    if check.detector is None:
        from_images = {k: v for k, v in from_images.items() if not k[2].startswith(RATE)}
    differ = _table(told, numbers_of(sweep.runs), from_images, options)
    print(
        f"{check.images} images scored anew: alignments within {check.largest:.2g} of the records "
        f"(tolerance {options.tolerance:g}), {check.near_ties} ranks between classes that close."
    )
    for sentence in check.differences[:SHOWN]:
        print(f"DIFFERENT: {sentence}")
    if len(check.differences) > SHOWN:
        print(f"DIFFERENT: {len(check.differences) - SHOWN} more images")
    print("All agree." if not differ and not check.differences else "There are differences.")
    return 1 if differ or check.differences else 0


def erasekit(*command: object) -> dict[str, Any]:
    """What a command of erasekit prints as JSON.

    Raises:
        DamagedError: it fails.
    """
    call = [sys.executable, "-m", "erasekit", *map(str, command), "--json"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DamagedError(f"`erasekit {' '.join(map(str, command))}` fails: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _from_images(sweep: Sweep, check: Check, classes: Classes | None) -> list[Run]:
    """Every run of the sweep with what its images give."""
    seen: list[Run] = []
    base: Run | None = None
    for place, run in enumerate(sweep.runs):
        base = run if run.method == "base" else base
        if base is None or base.erased != run.erased:
            raise DamagedError(f"{run.file} has no record of the model before it")
        own = classes
        if classes is not None:
            names = [r.names for r in sweep.runs[place:] if r.erased == run.erased and r.names]
            for concept in names[0] if names else ():
                own = own.including(concept) if own else None
            if own and content_key(own.identity) != run.labels:
                raise DamagedError(
                    f"{run.file} was ranked among other classes than its suite has; name the "
                    "suite with --suite and the model with --model"
                )
        seen.append(check.redo(run, base, own))
    return seen


def _scorer(sweep: Sweep) -> str:
    """Where the scorer of the sweep is: as it was named, or with the model that ships it."""
    name = str(sweep.about["scorer"]["name"])
    if name.startswith("local-dir:"):
        return name.removeprefix("local-dir:")
    for model in erasekit("models")["models"]:
        if model["scorer"] == name and model["scorer_path"]:
            return str(model["scorer_path"])
    if "/" not in name:
        raise DamagedError(f"the scorer {name!r} is not at hand; name its folder with --scorer")
    return name


def _classes(sweep: Sweep, options: argparse.Namespace) -> Classes | None:
    """The classes of the sweep's suite; None where the classifier has its own."""
    about = sweep.about
    if about["classifier"] != about["scorer"]:
        print(f"Ranks by {about['classifier']['name']} are taken from the records.")
        return None
    name, model = options.suite or about["suite"], options.model or about["model"]
    suite = erasekit("suites", "show", name, "--model", model)["suite"]
    names = suite["labels"] or [[c["name"], *c["aliases"]] for c in suite["concepts"]]
    return Classes(tuple(tuple(own) for own in names), suite["label"])


def _detector(sweep: Sweep) -> Any:
    """NudeNet's detector where the sweep has NER; None where it has not, or it isn't installed."""
    measures = [measure["name"] for measure in sweep.about["measures"]]
    kept = [name for name in measures if name != "nudenet"]
    if kept:
        print(f"Measures by {', '.join(kept)} are taken from the records.")
    if "nudenet" not in measures:
        return None
    try:
        import nudenet
    except ImportError:
        print("NudeNet is not installed: NER is taken from the records.")
        return None
    return nudenet.NudeDetector()


def _table(told: Numbers, records: Numbers, images: Numbers, options: argparse.Namespace) -> int:
    """Print every number three times; gives how many don't agree."""
    differ = 0
    print(
        f"{'method':<10} {'erased':<20} {'what':<22} {'shown':>10} {'records':>10} {'images':>10}"
    )
    for key in dict.fromkeys((*told, *records)):
        method, erased, what = key
        of_concept = what.startswith("delta of ")
        values = [numbers.get(key, math.nan) for numbers in (told, records, images)]
        loose = what.startswith(("alignment", "delta", "clip-score"))
        near = _same(values[0], values[1], EXACT)
        if key in images:
            near &= _same(values[1], values[2], 2 * options.tolerance if loose else EXACT)
        near &= (key in told) == (key in records)
        differ += not near
        if near and of_concept and not options.concepts:
            continue
        cells = " ".join(f"{'–' if math.isnan(v) else format(v, '.6f'):>10}" for v in values)
        mark = "" if near else "  DIFFERENT"
        print(f"{method:<10} {erased[:20]:<20} {what[:22]:<22} {cells}{mark}")
    return differ


def _same(one: float, other: float, tolerance: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or abs(one - other) <= tolerance


if __name__ == "__main__":
    sys.exit(main())

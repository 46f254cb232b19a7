"""Peak memory and time of training steps on full-size UNets with random weights.

    python -m benchmarks.fullsize sd1
    python -m benchmarks.fullsize sdxl --dtype bf16
    python -m benchmarks.fullsize published
    python -m benchmarks.fullsize table

The first two take gumbel steps in the lean setting: trajectories of 2 solver steps, gradient
checkpointing. `published` takes two loops of the schedule as published, at the shape of Stable
Diffusion 1.5. UNet, VAE and scheduler have the family's real configuration; the text encoders, idle
in training, have two layers. Each is measured in a process of its own, so that its peak is the
operating system's, and stands beside a lower bound: the bytes of weights, gradients, moments and
copies. `table` computes what fits on a GPU; nothing in it is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.fullsize.arithmetic import gpu_table
from benchmarks.fullsize.lean import StepOptions, step
from benchmarks.fullsize.models import DTYPES
from benchmarks.fullsize.published import loops


def main() -> None:
    """Measure in a subprocess, print, and keep the result; or print the table."""
    options = _parser().parse_args()
    if options.what == "table":
        print(gpu_table())
        return
    if options.child:
        print(json.dumps(_measure(options)))
        return
    command = [sys.executable, "-m", "benchmarks.fullsize", *sys.argv[1:], "--child"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        died = "killed, out of memory" if result.returncode == -9 else "failed"
        sys.exit(f"The run was {died} (exit code {result.returncode}).")
    found = json.loads(result.stdout.splitlines()[-1])
    found["command"] = " ".join(["python -m benchmarks.fullsize", *sys.argv[1:]])
    print(json.dumps(found, indent=2))
    peak, bound = found["peak_gib"]["run"], found["lower_bound_gib"]["sum"]
    print(
        f"{options.what}: peak {peak} GiB, of which weights, gradients, moments and copies alone "
        f"are {bound}; {found['seconds']}",
        file=sys.stderr,
    )
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.what == "published":
        return loops()
    return step(
        StepOptions(
            options.what,
            options.dtype,
            options.batch_size,
            options.accumulate,
            options.latents,
            options.steps,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fullsize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("sd1", "sd2", "sdxl", "published"):
        command = commands.add_parser(name)
        command.add_argument("--output", type=Path, help="write the result there as JSON")
        command.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
        if name == "published":
            continue
        command.add_argument("--dtype", choices=DTYPES, default="fp32", help="of stored weights")
        command.add_argument("--batch-size", type=int, default=1)
        command.add_argument("--accumulate", type=int, default=1)
        command.add_argument("--steps", type=int, default=1)
        command.add_argument("--latents", type=int, default=0, help="side; 0: the family's own")
    commands.add_parser("table")
    return parser


if __name__ == "__main__":
    main()

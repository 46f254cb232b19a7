"""One command for the whole recipe: `python -m benchmarks.world all`."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

STEPS = ("fetch", "sprites", "autoencoder", "generator", "scorer", "evaluate", "pack")
MINUTES = {
    "autoencoder": {"cpu": 60.0, "cuda": 2.5},
    "generator": {"cpu": 600.0, "cuda": 7.0},
    "scorer": {"cpu": 120.0, "cuda": 3.0},
}
"""A training's budget where none is given, over all its runs."""


def main(arguments: list[str] | None = None) -> None:
    """Run one step, or all of them in order; each goes on where it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world", description=__doc__)
    parser.add_argument("step", choices=(*STEPS, "all", "save", "restore", "gpu"))
    parser.add_argument("--steps", type=int, help="optimiser steps of a training, over all runs")
    parser.add_argument("--minutes", type=float, help="minutes of a training, over all its runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of a training")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--eager", action="store_true", help="a GPU without torch.compile")
    parser.add_argument("--threads", type=int, help="threads on a CPU")
    parser.add_argument(
        "--processes", type=int, default=2, help="of the generator's training on a CPU"
    )
    parser.add_argument("--quick", action="store_true", help="evaluate: an eighth of the concepts")
    parser.add_argument("--data", type=Path, help="gpu: the file of sprites")
    parser.add_argument("--out", type=Path, help="gpu, save: the file of weights to write")
    parser.add_argument("--from", dest="source", type=Path, help="restore: the file of weights")
    parser.add_argument("--into", type=Path, help="pack: the folder, if not build/packed")
    parser.add_argument("--tiny", action="store_true", help="gpu: two steps each, on any device")
    options = parser.parse_args(arguments)
    import torch

    from benchmarks.world.training import Budget, Device

    if options.threads:
        torch.set_num_threads(options.threads)
    device = Device.of(options.device, options.eager)
    for name in STEPS if options.step == "all" else (options.step,):
        print(f"== {name}", flush=True)
        module = importlib.import_module(
            f"benchmarks.world.{'weights' if name in ('save', 'restore') else name}"
        )
        if name in MINUTES:
            minutes = None if options.steps else options.minutes or MINUTES[name][device.name]
            more = {}
            if name == "generator" and not device.fast:
                more["processes"] = options.processes
            module.train(Budget(options.steps, minutes), options.seed, device, **more)
        elif name == "gpu":
            if not (options.data and options.out):
                parser.error("gpu needs --data and --out")
            module.run(
                options.data, options.out, options.minutes or 10, options.seed, device, options.tiny
            )
        elif name == "evaluate":
            module.evaluate(options.quick, device.name)
        elif name == "pack":
            module.pack(options.into)
        elif name == "save":
            module.save_weights(*filter(None, [options.out]))
        elif name == "restore":
            module.restore(*filter(None, [options.source]))
        elif name == "sprites":
            module.render()
        else:
            module.fetch()


if __name__ == "__main__":
    main()

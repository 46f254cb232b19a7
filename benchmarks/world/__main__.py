"""One command for the whole recipe: `python -m benchmarks.world all`."""

from __future__ import annotations

import argparse
import importlib

STEPS = ("fetch", "render", "autoencoder", "generator", "wide", "scorer", "evaluate", "pack")


def main(arguments: list[str] | None = None) -> None:
    """Run one step, or all of them in order; each goes on where it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world", description=__doc__)
    parser.add_argument("step", choices=(*STEPS, "shipped", "all"))
    parser.add_argument("--steps", type=int, help="optimiser steps of a training")
    parser.add_argument("--seed", type=int, default=0, help="seed of a training")
    parser.add_argument("--threads", type=int, help="threads of the autoencoder and the scorer")
    parser.add_argument("--quick", action="store_true", help="evaluate: 4 pictures a concept")
    options = parser.parse_args(arguments)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    for name in STEPS if options.step == "all" else (options.step,):
        print(f"== {name}", flush=True)
        module = importlib.import_module(f"benchmarks.world.{name}")
        if name in ("autoencoder", "generator", "scorer"):
            extra = {"steps": options.steps} if options.steps else {}
            module.train(seed=options.seed, **extra)
        elif name == "evaluate":
            module.evaluate(quick=options.quick)
        elif name == "shipped":
            module.measure_shipped()
        elif name == "fetch":
            module.fetch()
        elif name == "render":
            module.render()
        elif name == "wide":
            module.wide()
        else:
            module.pack()


if __name__ == "__main__":
    main()

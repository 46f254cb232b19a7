"""Seconds and passes, in turn (A B A B) within one process, as ratios."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.ablation import VARIANTS
from benchmarks.speed.bare import BarePasses
from benchmarks.speed.runs import Bench, Run
from erasekit.bench.plan import Sweep
from erasekit.bench.runner import BenchmarkRunner
from erasekit.bench.store import RecordStore
from erasekit.bench.suite_file import load_suite
from erasekit.concepts import Erasure
from erasekit.diffusion.sampling import generate
from erasekit.metrics.judges import load_scorer
from erasekit.training.trainer import Callback


def in_turn(runs: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Every run once a round, in turn."""
    found: dict[str, list[Run]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
            print(f"round {number + 1}, {name}: {found[name][-1].seconds:.2f} s", flush=True)
    return found


def ratios(found: Mapping[str, list[Run]], base: str) -> list[dict[str, Any]]:
    """Seconds and passes of each by those of `base`, round by round: min, median, max."""
    rows = []
    for name, runs in found.items():
        times = [r.seconds / b.seconds for r, b in zip(runs, found[base], strict=True)]
        rows.append(
            {
                "name": name,
                "passes": runs[0].cost,
                "forward": runs[0].forward,
                "backward": runs[0].backward,
                "passes_ratio": runs[0].cost / found[base][0].cost,
                "seconds_median": statistics.median(run.seconds for run in runs),
                "ratio_min": min(times),
                "ratio_median": statistics.median(times),
                "ratio_max": max(times),
            }
        )
    return rows


def against_published(rounds: int, concept: str = "garbage truck") -> list[dict[str, Any]]:
    """The published schedule by erasekit's default."""
    bench = Bench.icons()
    bench.ours([concept], 0, {"steps": 2})  # warm up
    runs = {
        "erasekit": lambda: bench.ours([concept], 0),
        "published": lambda: bench.published(concept, 0),
    }
    return ratios(in_turn(runs, rounds), "erasekit")


def ablations(rounds: int, concept: str = "garbage truck") -> list[dict[str, Any]]:
    """Each idea switched off, by the default."""
    bench = Bench.icons()
    bench.ours([concept], 0, {"steps": 2})
    runs = {v.name: (lambda v=v: v.run(bench, concept)) for v in VARIANTS}
    return ratios(in_turn(runs, rounds), "default")


def overhead(rounds: int, concept: str = "garbage truck") -> list[dict[str, Any]]:
    """The default's training loop by the bare passes that it makes."""
    bench = Bench.icons()
    names = [name for name, _ in bench.model.unet.named_parameters() if "attn2" in name]
    bare = BarePasses(bench.model.family, names)
    bench.ours([concept], 0, {"steps": 2})  # warm up
    shares = []
    for _ in range(rounds):
        with bare.written():
            bench.ours([concept], 0, callbacks=[_Loop(on_start=bare.calls.clear)])
        loop = _Loop()
        bench.ours([concept], 0, callbacks=[loop])
        began = time.perf_counter()
        bare.again()
        shares.append(loop.seconds / (time.perf_counter() - began))
    ratios_of = {"min": min(shares), "median": statistics.median(shares), "max": max(shares)}
    return [{"forward_passes": bare.forward, **ratios_of}]


class _Loop(Callback):
    """How long the training steps took."""

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        self.begin, self.seconds = on_start, 0.0

    def on_start(self, step: int, total_steps: int) -> None:
        self.begin()
        self.began = time.perf_counter()

    def on_end(self) -> None:
        self.seconds = time.perf_counter() - self.began


def drawing(rounds: int, images: int = 64) -> list[dict[str, Any]]:
    """Images per second of erasekit's sampler and of a bare diffusers loop, by batch size."""
    bench = Bench.icons()
    prompts = ["church"] * images
    bench.model.pipeline.set_progress_bar_config(disable=True)
    rows = []
    for batch in (8, 16, 32, 64):
        own, bare = [], []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            generate(bench.model, prompts, range(images), batch_size=batch)
            own.append(time.perf_counter() - began)
            began = time.perf_counter()
            bare_loop(bench, images, batch)
            bare.append(time.perf_counter() - began)
        shares = [b / o for o, b in zip(own[1:], bare[1:], strict=True)]
        rows.append(
            {
                "batch": batch,
                "images_per_second": images / statistics.median(own[1:]),
                "bare_images_per_second": images / statistics.median(bare[1:]),
                "ratio_min": min(shares),
                "ratio_median": statistics.median(shares),
                "ratio_max": max(shares),
            }
        )
    return rows


def benching(rounds: int, images: int = 64) -> list[dict[str, Any]]:
    """Images per second of a whole sweep, scored and kept, by a bare diffusers loop that is not.

    The sweep is of one erasure in one step, whose images and those of the un-erased model are all
    that takes time. The loop's batch is the fastest of `drawing`.
    """
    bench = Bench.icons()
    model, registry = bench.model, bench.registry
    scorer = load_scorer(model.descriptor.scorer, registry, device=model.family.device)
    small = load_suite("icons-mini", registry, model.descriptor)
    suite = replace(small, images_per_concept=2, images_per_erased=16)
    erasure = Erasure((model.concept("church"),))
    sweep = Sweep(suite, ("none",), (erasure,), (0,), {"steps": 1, "trajectories": 1})
    model.pipeline.set_progress_bar_config(disable=True)
    whole, bare, drawn = [], [], 0
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            runner = BenchmarkRunner(model, scorer, RecordStore(Path(folder)))
            plan = runner.plan(sweep)
            drawn = plan.images
            began = time.perf_counter()
            (record,) = runner.run(sweep, plan)[1:]
            whole.append(drawn / (time.perf_counter() - began - record.seconds))
        began = time.perf_counter()
        bare_loop(bench, images, images)
        bare.append(images / (time.perf_counter() - began))
        print(f"{whole[-1]:.2f} and {bare[-1]:.2f} images a second", flush=True)
    shares = [o / b for o, b in zip(whole[1:], bare[1:], strict=True)]
    return [
        {
            "images": drawn,
            "images_per_second": statistics.median(whole[1:]),
            "bare_images_per_second": statistics.median(bare[1:]),
            "ratio_min": min(shares),
            "ratio_median": statistics.median(shares),
            "ratio_max": max(shares),
        }
    ]


def bare_loop(bench: Bench, images: int, batch: int) -> None:
    """Draw with the pipeline of diffusers alone."""
    descriptor = bench.model.descriptor
    for start in range(0, images, batch):
        seeds = range(start, min(start + batch, images))
        bench.model.pipeline(
            ["church"] * len(seeds),
            num_inference_steps=descriptor.num_inference_steps,
            guidance_scale=descriptor.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        )

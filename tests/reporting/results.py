"""Results to make a page of: a benchmark of two erased sets, and a single erasure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from erasekit.bench.records import Comparison, Matched, Summary
from erasekit.metrics.scores import Estimate
from erasekit.reporting.page import LIMIT, Page, render
from erasekit.reporting.results import BenchResult, ConceptImages, RunResult
from tests.reporting.rows import bench_row, concept_row

NASTY = '<b>&"x"'
"""A concept's name that would break out of a page that is not careful."""
METHODS = ("base", "none", "gumbel")


def pictures(count: int, seed: int = 0, edge: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, edge, edge, 3), dtype=np.uint8)


def bench_result(erased: str = NASTY) -> BenchResult:
    rows, concepts = [], []
    for place, name in enumerate((erased, "church")):
        rows += [
            bench_row("base", 0.0, name, esr1=0.1),
            bench_row("none", 9.0 + place, name, failed=place),
            replace(bench_row("gumbel", 2.0 + place, name), best=True),
        ]
        for number, concept in enumerate((f"castle {NASTY}", "bus", "lion")):
            concepts += [
                concept_row("none", concept, 4.0 * number + place, name, p=0.01),
                concept_row("gumbel", concept, 1.5 - number, name),
            ]
    comparison = Comparison(
        "gumbel", "none", erased, Estimate(-7.0, 9, 0, -8.0, -6.0), 0.004, "gumbel harms less"
    )
    galleries = {
        name: [
            ConceptImages(
                concept,
                split,
                2,
                {method: pictures(2, i) for i, method in enumerate(METHODS)},
            )
            for concept, split in ((name, "erased"), (f"castle {NASTY}", "held-out"))
        ]
        for name in (erased, "church")
    }
    return BenchResult(
        "my-store",
        {
            "model": "icons",
            "model_hash": "ab" * 32,
            "suite": "icons-mini",
            "suite_version": "1",
            "scorer": {"name": "icons-clip", "weights": "cd" * 32},
        },
        Summary(
            tuple(rows),
            (),
            tuple(concepts),
            (f"none, church, seed 1: RuntimeError: {NASTY}",),
            (comparison,),
            (Matched("gumbel", "church", 0.9, Estimate(1.5, 4, 0, 1.0, 2.0, "1 of 2 runs"), 30.0),),
            (f"About {NASTY}.",),
            (replace(comparison, erased="church", esr1=0.9, verdict="gumbel harms less there"),),
        ),
        galleries,
        ["erasekit bench --concepts '<b>&\"x\",church'"],
        {"torch": ["2.4", "2.5"]},
        {"none": {"steps": ["100"]}, "gumbel": {"steps": ["100"], "keep_weight": ["1", "10"]}},
        {"guidance_scale": 3.0},
    )


def run_result() -> RunResult:
    history = [
        {
            "step": step,
            "loss": 1.0 / (step + 1),
            "erase_loss": 0.7 / (step + 1),
            "preserve_loss": 0.3 / (step + 1),
            "adversary": [
                {
                    "erased": "church",
                    "concept": NASTY if step % 2 else "castle",
                    "nearest": "castle",
                    "entropy": 3.0 - step / 10,
                    "shift": None,
                }
            ],
        }
        for step in range(20)
    ]
    info = {
        "method": "gumbel",
        "concepts": ["church"],
        "neutral": "",
        "keep": [],
        "config": {"steps": 20, "scope": "xattn"},
        "seed": 3,
        "base_model": {"id": "icons", "hash": "ef" * 32},
        "versions": {"torch": "2.4"},
        "command": "erasekit erase --concept church",
        "seconds": {"total": 12.0, "loop": 10.0},
        "unet_passes": {"forward": 1200, "backward": 600},
    }
    measures = {
        "scorer": "icons-clip",
        "remarks": ["Only 2 images."],
        "erased": [
            {
                "concept": "church",
                "alignment_before": 80.0,
                "alignment_after": 20.0,
                "esr1": 1.0,
                "n": 4,
            }
        ],
        "kept": [
            {
                "concept": "castle",
                "family": "buildings",
                "split": "held-out",
                "delta": 3.5,
                "ci95": [None, None],
                "n": 2,
            }
        ],
    }
    sheets = {"Before and after, at the same noise": pictures(1, edge=120)[0]}
    return RunResult("my-run", info, history, measures, sheets)


def report(limit: int = LIMIT) -> Page:
    results = [bench_result(), run_result()]
    return render(results, command="erasekit report my-store my-run", limit=limit)

"""A tiny world to bench: six concepts, three drawing steps, and a sweep of three erasure steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from erasekit.bench.plan import Sweep, parse_erased_sets
from erasekit.bench.runner import BenchmarkRunner
from erasekit.bench.store import RecordStore
from erasekit.bench.suite import Suite
from erasekit.plugin.descriptors import ModelConcept
from tests.tiny_clip import tiny_scorer, tiny_scorer_folder

__all__ = ["tiny_scorer", "tiny_scorer_folder"]

WORLD = (
    ModelConcept("garbage truck", "object", "vehicles", "pool", ("red truck",)),
    ModelConcept("bus", "object", "vehicles", "held-out"),
    ModelConcept("car", "object", "vehicles", "pool", ("red car",)),
    ModelConcept("church", "object", "buildings", "held-out"),
    ModelConcept("castle", "object", "buildings", "pool"),
    ModelConcept("banana", "object", "food", "held-out", ("a banana",)),
    ModelConcept("apple", "object", "food", "pool"),
)
QUICK = {
    "steps": 3,
    "learning_rate": 0.02,
    "batch_size": 2,
    "trajectories": 1,
    "trajectory_steps": 3,
}


@pytest.fixture
def suite() -> Suite:
    return Suite(
        "tiny",
        "1",
        "a tiny suite",
        WORLD,
        cases=("garbage truck",),
        images_per_concept=3,
        images_per_erased=4,
        num_inference_steps=3,
        guidance_scale=2.0,
    )


@pytest.fixture
def world_model(tiny_model):
    """The tiny model, with a list of what it draws."""
    descriptor = replace(
        tiny_model.descriptor, concept_space="model", num_inference_steps=3, guidance_scale=2.0
    )
    return replace(tiny_model, concepts=list(WORLD), descriptor=descriptor)


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "store")


@pytest.fixture
def make_sweep(suite: Suite, world_model):
    def make(*methods: str, erased: str = "garbage truck", seeds: int = 1, **settings) -> Sweep:
        return Sweep(
            suite,
            methods,
            parse_erased_sets(erased, world_model),
            tuple(range(seeds)),
            {**QUICK, **settings},
        )

    return make


@pytest.fixture
def runner(world_model, tiny_scorer, registry, store) -> BenchmarkRunner:
    return BenchmarkRunner(world_model, tiny_scorer, store)

"""What a sweep is said to cost, against what it then costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from erasekit.bench.forecast import calibrate, forecast
from erasekit.bench.runner import BenchmarkRunner
from erasekit.bench.store import RecordStore
from erasekit.methods.gradient import GradientErasure
from erasekit.methods.sampled import steps_drawn
from erasekit.metrics.judges import Judges
from tests.bench.suites.test_general import CAPTIONS, Colours

METHODS = ("none", "neutral", "l2", "pgd", "random", "gumbel", "nearest", "argmax")


@pytest.fixture
def make_small(make_sweep):
    def make(*methods: str, **options):
        sweep = make_sweep(*methods, **options)
        return replace(sweep, suite=replace(sweep.suite, images_per_concept=1, images_per_erased=1))

    return make


def said_and_counted(runner, sweep) -> dict[str, tuple[float, int]]:
    """By method, the passes that it expects and those that the UNet counts."""
    plan = runner.plan(sweep)
    said = {p.cell.method: plan.costs.passes[p.cell.key] for p in plan.erasures}
    records = runner.run(sweep, plan)
    return {r.cell.method: (said[r.cell.method], r.unet_passes) for r in records[1:]}


def test_each_method_s_own_forecast_is_near_the_count(runner, make_small) -> None:
    """Within a tenth: how far trajectories of words are drawn is all that is left to chance."""
    kept = {"latents_from": "frozen", "timesteps": "solver", "trajectories": 3}
    sweep = make_small(*METHODS, erased="church+banana", **kept)
    for method, (said, counted) in said_and_counted(runner, sweep).items():
        assert said == pytest.approx(counted, rel=0.1), method
    # With records to go by it is near: another seed draws other words, and others as far.
    more = make_small(*METHODS, erased="church+banana", seeds=2, **kept)
    plan = runner.plan(more)
    assert plan.costs.guessed == 0
    counted = sum(r.unet_passes for r in runner.store.records())
    assert plan.costs.total == counted
    assert plan.erasure_passes == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(("draws", "trajectories", "solver"), [(1, 3, 5), (7, 3, 5), (40, 8, 4)])
def test_solver_steps_drawn_are_those_of_a_simulation(
    draws: int, trajectories: int, solver: int
) -> None:
    generator, total, runs = np.random.default_rng(0), 0, 4000
    for _ in range(runs):
        reached = np.zeros(trajectories, int)
        which = generator.integers(trajectories, size=draws)
        np.maximum.at(reached, which, 1 + generator.integers(solver, size=draws))
        total += reached.sum()
    assert steps_drawn(draws, trajectories, solver) == pytest.approx(total / runs, rel=0.03)


def test_no_words_are_not_drawn() -> None:
    assert steps_drawn(10, 0, 5) == 0


def test_sampling_from_the_current_model_is_counted(runner, make_small) -> None:
    sweep = make_small("none", "neutral", latents_from="current", steps=12)
    for method, (said, counted) in said_and_counted(runner, sweep).items():
        assert said == pytest.approx(counted, rel=0.5), method


def test_what_a_method_says_is_what_is_forecast(
    runner, make_small, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_small("none", erased="church+banana", steps=9)
    assert runner.plan(sweep).costs.total > 0
    monkeypatch.setattr(
        GradientErasure,
        "expected_passes",
        lambda self, context, steps: 100.0 * steps + len(context.erasure.erased),
    )
    assert runner.plan(sweep).costs.total == 902.0


def test_a_forecast_writes_nothing_and_foresees_the_bytes(
    runner, make_small, store: RecordStore
) -> None:
    sweep = make_small("none", "l2")
    plan = runner.plan(sweep)
    before = runner.model.passes.snapshot()
    told = forecast(runner, sweep.suite, plan)
    assert told is not None
    assert not store.root.exists()
    # A warm-up image, and 32 images with one and with three steps; two passes a step.
    assert (runner.model.passes - before).forward == 2 * (1 + 32 + 96)
    assert plan.costs.guessed == 2
    assert told.seconds > plan.costs.total * told.calibration.pass_seconds > 0
    runner.run(sweep, plan)
    written = sum(p.stat().st_size for p in store.root.rglob("*") if p.is_file())
    assert written / 3 < told.bytes < written * 3
    assert forecast(runner, sweep.suite, runner.plan(sweep)) is None


def test_a_calibration_measures_what_drawing_takes(
    runner, make_small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that runs by UNet passes and decoded images alone."""
    sweep = make_small("none")
    plan = runner.plan(sweep)
    decoded = []
    decode = type(runner.model.family).decode

    def counted(self, latents):
        decoded.append(len(latents))
        return decode(self, latents)

    monkeypatch.setattr(type(runner.model.family), "decode", counted)
    monkeypatch.setattr(
        "erasekit.bench.forecast.time.perf_counter",
        lambda: 0.002 * runner.model.passes.forward + 0.03 * sum(decoded),
    )
    found = calibrate(runner, sweep.suite, plan.erased_sets[0])
    assert found.pass_seconds == pytest.approx(0.002)
    assert found.image_seconds == pytest.approx(0.03)


def test_looking_at_captions_is_foreseen(
    runner, make_small, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that runs by UNet passes and the images that a measure of sets looks at."""
    measure = Colours()
    judges = Judges.of(runner.scorer)
    with_sets = BenchmarkRunner(runner.model, replace(judges, sets=(measure,)), store)
    monkeypatch.setattr(
        "erasekit.bench.forecast.time.perf_counter",
        lambda: 0.002 * runner.model.passes.forward + 0.5 * measure.looked_at,
    )

    def foreseen_and_run(seeds: int) -> int:
        sweep = make_small("none", erased="church", seeds=seeds)
        sweep = replace(sweep, suite=replace(sweep.suite, captions=CAPTIONS))
        plan = with_sets.plan(sweep)
        plain, told = (forecast(r, sweep.suite, plan) for r in (runner, with_sets))
        assert plain is not None
        assert told is not None
        before = measure.looked_at
        with_sets.run(sweep, plan)
        images = measure.looked_at - before
        assert told.seconds - plain.seconds == pytest.approx(0.5 * images)
        assert told.bytes - plain.bytes == pytest.approx(3 * 4 * images, abs=1)
        return images

    assert foreseen_and_run(1) == 2 * len(CAPTIONS)  # the base model's and the edit's
    assert foreseen_and_run(2) == len(CAPTIONS)

"""The arithmetic of full-size runs, against counting by hand and tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import benchmarks.fullsize
from benchmarks.fullsize.arithmetic import (
    RowShape,
    default_needs,
    lean_bound,
    published_bound,
    rows_of,
)
from benchmarks.fullsize.models import parameter_counts
from benchmarks.fullsize.published import whole_run
from benchmarks.speed.published import PublishedConfig, erase_as_published
from erasekit.testing import assert_same_tensors, tiny_model, weights

GIB = 1 << 30


def test_the_published_numbers_of_parameters() -> None:
    """Of the UNets' cards, and cross-attention counted from widths: sd1 has 16 blocks of it."""
    sd1, sdxl = parameter_counts("sd1"), parameter_counts("sdxl")
    assert sd1["unet"] == 859_520_964
    assert sdxl["unet"] == 2_567_463_684
    blocks = {320: 5, 640: 5, 1280: 6}
    per_block = {w: 2 * w * w + w + 2 * w * 768 for w in blocks}
    assert sd1["xattn"] == sum(count * per_block[width] for width, count in blocks.items())


def test_bounds_are_weights_gradients_moments_and_copies() -> None:
    lean = lean_bound(unet=100, trained=10, idle=20, pool=7)
    assert sum(lean.values()) == 4 * 100 + 4 * 20 + 10 * (4 + 4 + 8) + 7
    half = lean_bound(unet=100, trained=10, idle=20, pool=0, stored_half=True)
    assert sum(half.values()) == 2 * 90 + 4 * 10 + 2 * 20 + 10 * (4 + 4 + 8)
    published = published_bound(unet=100, trained=10, idle=20)
    assert sum(published.values()) == 4 * (100 + 100 + 20 + 100) + 8 * 10


def test_a_published_run_takes_the_passes_that_its_loops_are_counted_to_take() -> None:
    model = tiny_model()
    before = weights(model)
    embeds = model.family.embed_prompts(["church", "bus", "car"])
    config = PublishedConfig(steps=20, ddim_steps=6)
    tensors, passes = erase_as_published(
        model.pipeline, embeds[:1], embeds[1:], model.family.unconditional_embeds(), config
    )
    assert passes.backward == 2 * 20 + 19
    trajectories = passes.forward - 39 * (3 + 2)
    assert trajectories % 4 == 0
    expected = whole_run(config, 1.0, 1.0)
    assert passes.cost == pytest.approx(expected["passes"], rel=0.15)
    whole = whole_run(PublishedConfig(), forward=2.0, loop=30.0)
    assert whole["passes_per_loop"] == 106
    # 98 passes sample, 2 of them in the measured loop already
    assert whole["computed_hours"] == round(1999 * (30 + 96 * 2) / 3600, 1)
    assert_same_tensors(weights(model), before)
    assert any(not torch.equal(v, before[f"unet.{name}"]) for name, v in tensors.items())


def test_a_row_without_memory_keeps_what_one_with_memory_did() -> None:
    """Counted on shapes alone, beside what the published run counted on weights in memory."""
    path = Path(benchmarks.fullsize.__file__).parents[1] / "results/fullsize/sd1.json"
    measured = json.loads(path.read_text(encoding="utf-8"))["row_bytes"]
    found = rows_of("sd1", "fp32")
    assert (found.row, found.passing_row) == (measured["plain"], measured["checkpointed"])


def test_a_row_grows_with_what_gets_a_gradient_and_with_its_latents() -> None:
    found = rows_of("sd1", "fp32", latents=8)
    everything = rows_of("sd1", "fp32", latents=8, every_parameter=True)
    assert found.latents == 8
    assert found.passing_row < found.row < everything.row
    twice = rows_of("sd1", "fp32", latents=16)
    assert twice.row == pytest.approx(4 * found.row, rel=0.25)


def test_half_precision_keeps_half_which_the_plan_halves_itself() -> None:
    full, half = rows_of("sd1", "fp32", latents=8), rows_of("sd1", "fp16", latents=8)
    assert half.row == pytest.approx(full.row, rel=0.05)


def test_needs_are_those_of_the_family_s_defaults() -> None:
    needs = default_needs("sd1", "fp32", RowShape(GIB, GIB // 4, 64))
    assert needs.kept == 0, "z_t are of the model in training, as published"
    assert needs.unet == 4 * 859_520_964
    assert needs.rows == 2
    half = default_needs("sd1", "fp16", RowShape(GIB, GIB // 4, 64))
    assert 2 * half.unet == needs.unet
    assert half.stored_half

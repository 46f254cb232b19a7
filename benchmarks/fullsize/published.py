"""Loops of the schedule as published, at Stable Diffusion 1.5's shape."""

from __future__ import annotations

import tempfile
import time
from typing import Any

from benchmarks.fullsize.arithmetic import gib, in_gib, published_bound
from benchmarks.fullsize.lean import WORDS
from benchmarks.fullsize.models import build_pipeline
from benchmarks.speed.published import PublishedConfig, erase_as_published

FAMILY = "sd1"
MEASURED = PublishedConfig(steps=2, ddim_steps=2)
"""Two loops move theta', one pi. A longer trajectory takes longer, and no more memory."""


def loops() -> dict[str, Any]:
    """Build the model, take both kinds of loop, and say what they took; in a process of its own."""
    import torch

    from erasekit.models.loading import wrap_pipeline
    from erasekit.models.pipeline_state import freeze
    from erasekit.training.memory import measure_row
    from erasekit.training.run_folder import peak_memory_mb, versions

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = build_pipeline(FAMILY, "fp32", scratch)
        freeze(pipeline)
        model = wrap_pipeline(pipeline, f"random {FAMILY}")
    built, before = time.perf_counter() - began, peak_memory_mb()
    family = model.family
    with torch.no_grad():
        latents = torch.randn(1, *family.latents_shape())
        processor = time.process_time()
        family.predict_output(latents, torch.tensor([500]), family.unconditional_embeds())
        forward = time.process_time() - processor
        embeds = family.embed_prompts(["garbage truck", *WORDS])
    began, processor = time.perf_counter(), time.process_time()
    tensors, passes = erase_as_published(
        pipeline, embeds[:1], embeds[1:], family.unconditional_embeds(), MEASURED
    )
    seconds, peak = time.perf_counter() - began, peak_memory_mb()
    processor = time.process_time() - processor
    unet = sum(p.numel() for p in model.unet.parameters())
    trained = sum(value.numel() for value in tensors.values())
    idle = sum(
        p.numel() for part in (pipeline.vae, pipeline.text_encoder) for p in part.parameters()
    )
    row, checkpointed = measure_row(family, dict(model.unet.named_parameters()))
    return {
        "schedule": "published",
        "family": FAMILY,
        "stored_in": "fp32",
        "latents": family.latents_shape()[1],
        "unet_parameters": unet,
        "trained_parameters": trained,
        "loops": _loops(MEASURED),
        "ddim_steps": MEASURED.ddim_steps,
        "unet_passes": passes.as_dict(),
        "seconds": {
            "build": round(built, 1),
            "loops": round(seconds, 1),
        },
        "processor_seconds": {
            "forward_pass": round(forward, 2),
            "loops": round(processor, 1),
            "per_pass": round(processor / passes.cost, 2),
        },
        "whole_run": whole_run(PublishedConfig(), forward, processor / _loops(MEASURED)),
        "peak_gib": {"model_built": gib(before * 2**20), "run": gib(peak * 2**20)},
        "row_bytes": {"plain": row, "checkpointed": checkpointed},
        "lower_bound_gib": in_gib(published_bound(unet, trained, idle)),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def whole_run(config: PublishedConfig, forward: float, loop: float) -> dict[str, Any]:
    """Passes (forward + 2 backward) of a whole run, by expectation, and what they would take.

    A loop samples two trajectories to a step drawn uniformly, two rows each; then come three
    frozen passes, and two trained ones with their backward, one of them where pi moves.

    Args:
        forward: seconds of one forward pass, which is all that sampling is made of.
        loop: seconds of a measured loop, whose trajectories had `MEASURED.ddim_steps`.
    """
    sampled = _sampled(config)
    per_loop = sampled + 3 + 2 + 2 * 3 / 2
    seconds = loop + (sampled - _sampled(MEASURED)) * forward
    return {
        "passes_per_loop": per_loop,
        "passes": round(_loops(config) * per_loop + 1),
        "computed_hours": round(_loops(config) * seconds / 3600, 1),
    }


def _loops(config: PublishedConfig) -> int:
    """A step on pi stands between any two on theta'."""
    return 2 * config.steps - 1


def _sampled(config: PublishedConfig) -> float:
    """Passes of a loop's two trajectories, by expectation."""
    return 2 * 2 * (config.ddim_steps - 1) / 2

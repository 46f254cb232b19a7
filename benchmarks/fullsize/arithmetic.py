"""Bytes that a run can't do without, and what of it fits on a GPU. Computed, not measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.fullsize.models import build_pipeline, parameter_counts
from erasekit.errors import ConfigError
from erasekit.models.catalog import PUBLISHED
from erasekit.training.memory import GIB, LIBRARIES, MemoryNeeds, estimate, fit_memory

GPUS = (12, 16, 24)
"""GiB of the GPUs in the table."""
FREE = 0.9
"""Share of a GPU that the estimate may fill."""
MODELS = (("sd1", "fp32"), ("sd1", "fp16"), ("sd2", "fp32"), ("sdxl", "fp32"), ("sdxl", "fp16"))
UNCHANGED: Mapping[str, Any] = {
    "accumulate": 1,
    "precision": "auto",
    "gradient_checkpointing": False,
    "optimizer": "adam",
    "offload": False,
}
LEAST: Mapping[str, Any] = {
    "accumulate": 64,
    "gradient_checkpointing": True,
    "optimizer": "adam8bit",
    "offload": True,
}
"""All that `--max-memory` may switch on, but for bf16."""
_WORDS = {
    "offload": "offload",
    "gradient_checkpointing": "checkpointing",
    "optimizer": "8-bit Adam",
    "precision": "bf16",
}


def lean_bound(
    unet: int, trained: int, idle: int, pool: int, stored_half: bool = False
) -> dict[str, int]:
    """Bytes of what erasekit keeps throughout training, without activations.

    Args:
        unet, trained, idle: parameters of the UNet, in scope, and of VAE and text encoders.
        pool: bytes of kept trajectories.
        stored_half: whether the model is stored in bf16 or fp16.
    """
    size = 2 if stored_half else 4
    return {
        "unet": size * (unet - trained) + 4 * trained,
        "vae_and_text_encoders": size * idle,
        "frozen_copy_of_the_scope": 4 * trained,
        "gradients": 4 * trained,
        "adam_moments": 8 * trained,
        "trajectories": pool,
    }


def published_bound(unet: int, trained: int, idle: int) -> dict[str, int]:
    """The same of the published schedule, in fp32: a second UNet, gradients for all of one."""
    return {
        "unet": 4 * unet,
        "vae_and_text_encoders": 4 * idle,
        "second_unet": 4 * unet,
        "gradients": 4 * unet,
        "adam_moments": 8 * trained,
    }


def in_gib(parts: Mapping[str, int]) -> dict[str, float]:
    """Each part and their sum, in GiB."""
    return {name: gib(value) for name, value in {**parts, "sum": sum(parts.values())}.items()}


def gib(count: float) -> float:
    return round(count / GIB, 2)


def gpu_table() -> str:
    """A Markdown table of what fits on a GPU, by model and schedule."""
    gpus = [f"{size} GiB" for size in GPUS]
    columns = ["model", "latents", "stored in", "schedule", "plainly", "at least", *gpus]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for family, dtype in MODELS:
        if dtype == "fp32":
            lines.append(_published_row(family))
        lines.append(_lean_row(family, dtype))
    return "\n".join(lines)


def _published_row(family: str) -> str:
    """Two rows with gradients in all parameters are kept at once, each pass being on its own."""
    shape = rows_of(family, "fp32", every_parameter=True)
    needed = 2 * shape.row + LIBRARIES + sum(published_bound(*_counts(family)).values())
    cells = ["yes" if needed <= FREE * size * GIB else "no" for size in GPUS]
    start = [family, str(shape.latents), "fp32", "published", f"{gib(needed)}", "the same"]
    return f"| {' | '.join([*start, *cells])} |"


def _lean_row(family: str, dtype: str) -> str:
    shape = rows_of(family, dtype)
    needs, settings = default_needs(family, dtype, shape), dict(UNCHANGED)
    cells = [_cell(needs, settings, size) for size in GPUS]
    plainly, least = (gib(estimate(needs, {**settings, **more})) for more in ({}, LEAST))
    start = [family, str(shape.latents), dtype, "erasekit", f"{plainly}", f"{least}"]
    return f"| {' | '.join([*start, *cells])} |"


def _cell(needs: MemoryNeeds, settings: Mapping[str, Any], size: int) -> str:
    """What `--max-memory` would choose, and what the run then takes."""
    try:
        plan = fit_memory(needs, settings, FREE * size, eight_bit=True)
    except ConfigError:
        return "no"
    chosen = [
        f"{value} parts" if name == "accumulate" else _WORDS[name]
        for name, value in plan.choices.items()
    ]
    return f"{gib(plan.estimate)}: {', '.join(chosen) or 'as it is'}"


def default_needs(family: str, dtype: str, shape: RowShape) -> MemoryNeeds:
    """Of a run with the family's own defaults: one row a step, no kept trajectories."""
    unet, trained, idle = _counts(family)
    size = 4 if dtype == "fp32" else 2
    return MemoryNeeds(
        unet=size * unet,
        idle=size * idle,
        trained=trained,
        row=shape.row,
        passing_row=shape.passing_row,
        rows=2 * PUBLISHED["*"]["batch_size"],
        kept=0,
        stored_half=size == 2,
        gpu=True,
    )


@dataclass(frozen=True)
class RowShape:
    """What one row keeps for the backward pass, in bytes of fp32, plainly and with checkpointing.

    Attributes:
        latents: side of a latent.
    """

    row: int
    passing_row: int
    latents: int


def rows_of(
    family: str, dtype: str, *, every_parameter: bool = False, latents: int = 0
) -> RowShape:
    """What a row keeps, counted on tensors that have shapes and no memory.

    Args:
        every_parameter: gradients in all of the UNet, in place of cross-attention.
        latents: side; 0 is the family's own.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from erasekit.diffusion.scope import ParameterScope
    from erasekit.models.families import adapter_for
    from erasekit.models.pipeline_state import freeze
    from erasekit.plugin.registry import Registry
    from erasekit.training.memory import measure_row

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with tempfile.TemporaryDirectory() as scratch, fake:
        pipeline = build_pipeline(family, dtype, scratch, latents)
        freeze(pipeline)
        _, adapter = adapter_for(pipeline, Registry(), family)
        scope = ParameterScope("full" if every_parameter else "xattn").select(adapter.unet)
        row, passing = measure_row(adapter, scope)
    scale = 1 if dtype == "fp32" else 2
    return RowShape(scale * row, scale * passing, adapter.latents_shape()[1])


def _counts(family: str) -> tuple[int, int, int]:
    """Parameters of the UNet, of its cross-attention, and of all that is idle in training."""
    counts = parameter_counts(family)
    unet, trained = counts.pop("unet"), counts.pop("xattn")
    return unet, trained, sum(counts.values())

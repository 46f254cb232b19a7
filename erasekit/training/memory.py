"""Fitting a run into a given memory: what it would take, and what to do where that is too much.

The arithmetic, in bytes, with P trained parameters and a batch of r rows in m parts:

    always       UNet as stored  +  VAE and text encoders (unless offloaded)  +  4 P (frozen copy)
                 + kept trajectories  +  0.75 GiB for libraries
    sampling     always + min(ceil(f / m), b / m) x passing row; and, where trajectories give way
                 to others along the run, 4 P + 8 P as in training
    training     always + 4 P (gradient) + 8 P (Adam's moments; 2 P in 8 bits) + ceil(r / m) x row

A *row* is what the backward pass of one sample keeps, measured on this UNet; with checkpointing it
is a *passing row*: the inputs of all blocks and what one block keeps. Both are halved in bf16 and
fp16. A UNet stored in half precision has 2 P more, for the master copy. f are the rows of
trajectories that are sampled together, b those that a pass without gradient runs at once, whatever
it is for (`rows_at_once`). The larger sum counts. It is an estimate: allocators and libraries add
to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.diffusion.solvers import SOLVERS
from erasekit.errors import ConfigError
from erasekit.methods.base import rows_per_step
from erasekit.models.families import FamilyAdapter
from erasekit.models.unet_runner import rows_at_once

GIB = 1 << 30
LIBRARIES = 3 * GIB // 4
SAMPLED_ROWS = 64
"""Rows of 32 trajectories that are sampled together, with and without the prompt."""
_CHECKPOINTED = ("ResnetBlock2D", "BasicTransformerBlock")
"""What diffusers' UNets checkpoint."""


@dataclass(frozen=True)
class MemoryNeeds:
    """What the estimate is made from, in bytes unless said otherwise.

    Attributes:
        unet: its weights as stored.
        idle: VAE and text encoders.
        trained: number of parameters in scope.
        row: kept for the backward pass of one row.
        passing_row: the same with checkpointing; also a pass without gradient, at most.
        rows: rows of a batch with gradient, of this process.
        sampled_rows: rows of trajectories that are sampled together, of this process.
        rows_at_once: of them, at most, that are run at once.
        pool: trajectories that are kept in memory.
        renewed: whether trajectories give way to others along the run.
        stored_half: whether the UNet is stored in bf16 or fp16.
        gpu: whether the memory is a GPU's.
    """

    unet: int
    idle: int
    trained: int
    row: int
    passing_row: int
    rows: int
    sampled_rows: int = SAMPLED_ROWS
    rows_at_once: int = SAMPLED_ROWS
    pool: int = 0
    renewed: bool = False
    stored_half: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """What was chosen.

    Attributes:
        choices: settings to change.
        estimate: bytes that the run then takes.
        text: one sentence for the user.
    """

    choices: Mapping[str, Any]
    estimate: int
    text: str


def estimate(needs: MemoryNeeds, settings: Mapping[str, Any]) -> int:
    """Bytes that a run takes at its peak. See the module's text.

    Args:
        needs: of the model and the batch.
        settings: the hyperparameters of `TrainingSettings` that matter.
    """
    parts = int(settings["accumulate"])
    half = 2 if needs.stored_half or settings["precision"] in ("bf16", "fp16") else 1
    row = needs.passing_row if settings["gradient_checkpointing"] else needs.row
    moments = 2 if settings["optimizer"] == "adam8bit" else 8
    idle = 0 if settings["offload"] and needs.gpu else needs.idle
    copies = 6 if needs.stored_half else 4
    always = needs.unet + idle + copies * needs.trained + needs.pool + LIBRARIES
    passing = min(-(-needs.sampled_rows // parts), max(1, needs.rows_at_once // parts))
    kept = (4 + moments) * needs.trained
    sampling = passing * needs.passing_row // half
    sampling += kept if needs.renewed else 0
    training = kept + -(-needs.rows // parts) * row // half
    return always + max(sampling, training)


def plan_memory(
    needs: MemoryNeeds,
    settings: Mapping[str, Any],
    limit_gib: float,
    *,
    eight_bit: bool | None = None,
) -> MemoryPlan:
    """The least that brings a run under a limit.

    What changes no number comes first: offloading (on a GPU), checkpointing, smaller parts. Then
    8-bit Adam (on a GPU, where bitsandbytes is installed) and bf16, where the precision was left
    open.

    Args:
        needs: of the model and the batch.
        settings: what the user has; what is on stays on.
        limit_gib: the limit, in GiB.
        eight_bit: whether 8-bit Adam can be had; None looks.

    Raises:
        ConfigError: nothing is enough; says what the least would be.
    """
    now = dict(settings)
    limit, before = int(limit_gib * GIB), estimate(needs, now)
    if eight_bit is None:
        eight_bit = needs.gpu and find_spec("bitsandbytes") is not None
    measures: list[tuple[str, Any, str]] = []
    if needs.gpu:
        measures.append(("offload", True, "VAE and text encoders on the CPU"))
    measures.append(("gradient_checkpointing", True, "gradient checkpointing"))
    parts = 2
    while parts < 2 * max(needs.rows, min(needs.sampled_rows, needs.rows_at_once)):
        measures.append(("accumulate", parts, f"batches in {parts} parts"))
        parts *= 2
    if eight_bit:
        measures.append(("optimizer", "adam8bit", "8-bit Adam"))
    if settings["precision"] == "auto" and not needs.stored_half:
        measures.append(("precision", "bf16", "bf16"))
    choices: dict[str, Any] = {}
    said: dict[str, str] = {}
    for name, value, words in measures:
        if estimate(needs, now) <= limit:
            break
        if now[name] == value or (name == "accumulate" and now[name] >= value):
            continue
        if estimate(needs, {**now, name: value}) < estimate(needs, now):
            now[name] = choices[name] = value
            said[name] = words
    after = estimate(needs, now)
    if after > limit:
        raise ConfigError(
            f"At least about {after / GIB:.1f} GiB are needed, with {_listed(said.values())}; "
            f"--max-memory is {limit_gib:g}. Use a smaller scope, fewer trajectories or less R."
        )
    if not choices:
        text = f"About {after / GIB:.1f} GiB of {limit_gib:g} are needed; nothing had to change."
    else:
        text = (
            f"About {after / GIB:.1f} GiB of {limit_gib:g} are needed, with "
            f"{_listed(said.values())}; {before / GIB:.1f} GiB without."
        )
    return MemoryPlan(choices, after, text)


def memory_needs(
    family: FamilyAdapter,
    parameters: Mapping[str, nn.Parameter],
    settings: Mapping[str, Any],
    *,
    erased: int,
    kept: int,
    processes: int = 1,
) -> MemoryNeeds:
    """What a run of a gradient method needs, its rows measured by one pass.

    Args:
        family: the adapter.
        parameters: in scope.
        settings: all hyperparameters; `batch_size`, `trajectory_steps`, `trajectories`,
            `keep_trajectories`, `keep_rows`, `trajectory_memory`, `num_concepts` and `centres`
            count where the method has them.
        erased: number of erased concepts.
        kept: number of kept words that the user named; 0 leaves R to the method.
        processes: that share the rows.
    """
    row, passing = measure_row(family, parameters)
    stored_half = next(family.unet.parameters()).element_size() < 4
    if stored_half:  # so measured
        row, passing = 2 * row, 2 * passing
    pipeline = family.pipeline
    idle = [getattr(pipeline, name, None) for name in ("vae", "text_encoder", "text_encoder_2")]
    words = kept or int(settings.get("centres") or settings.get("num_concepts") or 0)
    own = max(erased, int(settings.get("trajectories") or 0))
    of_words = words * int(settings.get("keep_trajectories") or 0)
    if settings.get("latents_from") == "current":
        own = of_words = 0
    channels, height, width = family.latents_shape()
    latent = 4 * channels * height * width
    # Of a word z_t and the prediction for it are kept; the unconditional one too of what is erased,
    # and where a solver looks back at guided steps.
    name = settings.get("trajectory_solver")
    looks_back = name is not None and SOLVERS[name].looks_back
    of_word = 3 if looks_back and settings.get("keep_guidance") != 1 else 2
    pool = (3 * own + of_word * of_words) * latent * int(settings.get("trajectory_steps") or 0)
    rows = rows_per_step(int(settings.get("batch_size", 1)), erased)
    branches = 1 + int(settings.get("keep_rows") or 1)
    sampled = min(SAMPLED_ROWS, 2 * (own + of_words)) or 2 * rows
    return MemoryNeeds(
        unet=_bytes(family.unet.parameters()),
        idle=sum(_bytes(part.parameters()) for part in idle if part is not None),
        trained=sum(p.numel() for p in parameters.values()),
        row=row,
        passing_row=passing,
        rows=-(-branches * rows // processes),
        sampled_rows=-(-sampled // processes),
        rows_at_once=rows_at_once(height, width),
        pool=int(min(pool, float(settings.get("trajectory_memory") or 0) * 2**30)),
        renewed=bool(settings.get("trajectory_refresh")),
        stored_half=stored_half,
        gpu=family.device.type != "cpu",
    )


def measure_row(family: FamilyAdapter, parameters: Mapping[str, nn.Parameter]) -> tuple[int, int]:
    """Bytes that the backward pass of one row keeps, plainly and with checkpointing.

    One pass that counts what autograd would keep, and keeps nothing of it.
    """
    unet, kept = family.unet, _Kept(family.unet.parameters())
    units = [m for m in unet.modules() if type(m).__name__ in _CHECKPOINTED]
    inside, inputs, largest, began = 0, 0, 0, 0

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal inputs, began
        began = kept.bytes
        inputs += sum(a.nbytes for a in arguments if isinstance(a, Tensor))

    def leave(*_: Any) -> None:
        nonlocal inside, largest
        inside += kept.bytes - began
        largest = max(largest, kept.bytes - began)

    handles = [unit.register_forward_pre_hook(enter) for unit in units]
    handles += [unit.register_forward_hook(leave) for unit in units]
    flags = [(p, p.requires_grad) for p in unet.parameters()]
    latents = torch.zeros(1, *family.latents_shape(), device=family.device, dtype=family.dtype)
    timesteps = torch.zeros(1, device=family.device, dtype=torch.int64)
    embeds = family.unconditional_embeds().clone()
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            family._run_unet(latents, timesteps, embeds.requires_grad_(True))
    finally:
        for handle in handles:
            handle.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    return kept.bytes, min(kept.bytes, kept.bytes - inside + inputs + largest)


class _Kept:
    """Counts the storages that autograd is given to keep, each once, and lets go of them.

    A weak reference to a storage keeps its address from being used again.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        from torch.multiprocessing import reductions

        self._reference: Any = getattr(reductions, "StorageWeakRef")  # noqa: B009
        self._seen = {self._reference(p.untyped_storage()) for p in parameters}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = self._reference(storage)
        if reference not in self._seen:
            self._seen.add(reference)
            self.bytes += storage.nbytes()

    def unpack(self, _: None) -> Tensor:
        raise AssertionError("what was counted can't be differentiated")


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def _listed(words: Iterable[str]) -> str:
    *most, last = words or ["nothing changed"]
    return f"{', '.join(most)} and {last}" if most else last

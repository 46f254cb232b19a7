"""Fitting a run into a given memory: what it would take, and what to do where that is too much.

In bytes, with P trained parameters and a batch of r rows in m parts:

    always       UNet as stored  +  VAE and text encoders (unless offloaded)  +  4 P (frozen copy)
                 + what the method keeps (trajectories)  +  0.75 GiB for libraries
    training     always + 4 P (gradient) + 8 P (Adam's moments; 2 P in 8 bits) + ceil(r / m) x row

A *row* is what the backward pass of one sample keeps, measured on this UNet; with checkpointing it
is a *passing row*: the inputs of all blocks and what one block keeps. Both are halved in bf16 and
fp16. A UNet stored in half precision has 2 P more, for the master copy. A pass without gradient
takes what is left under the limit, and one passing row at least (`Runner.limit`). It is an
estimate: allocators and libraries add to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing import reductions

from erasekit.errors import ConfigError
from erasekit.methods.base import MemoryUse
from erasekit.models.families import FamilyAdapter

GIB = 1 << 30
LIBRARIES = 3 * GIB // 4
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
        rows: rows of a batch with gradient.
        kept: what the method keeps beside weights, as its trajectories.
        stored_half: whether the UNet is stored in bf16 or fp16.
        gpu: whether the memory is a GPU's.
    """

    unet: int
    idle: int
    trained: int
    row: int
    passing_row: int
    rows: int
    kept: int = 0
    stored_half: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """What was chosen: settings to change, bytes taken then, and a sentence for the user.

    `passing` are the bytes that a pass without gradient may take beside.
    """

    choices: Mapping[str, Any]
    estimate: int
    passing: int
    text: str


def estimate(needs: MemoryNeeds, settings: Mapping[str, Any]) -> int:
    """Bytes that a run with these `TrainingSettings` takes at its peak. See the module's text."""
    half = 2 if needs.stored_half or settings["precision"] in ("bf16", "fp16") else 1
    row = needs.passing_row if settings["gradient_checkpointing"] else needs.row
    rows = -(-needs.rows // int(settings["accumulate"]))
    return _held(needs, settings) + max(needs.passing_row, rows * row) // half


def _held(needs: MemoryNeeds, settings: Mapping[str, Any]) -> int:
    """Bytes beside a pass: weights, copies, gradients, moments, what is idle or kept."""
    moments = 2 if settings["optimizer"] == "adam8bit" else 8
    idle = 0 if settings["offload"] and needs.gpu else needs.idle
    copies = 6 if needs.stored_half else 4
    return needs.unet + idle + (copies + 4 + moments) * needs.trained + needs.kept + LIBRARIES


def fit_memory(
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
    if eight_bit is None:
        eight_bit = needs.gpu and find_spec("bitsandbytes") is not None
    parts = [1 << power for power in range(1, (needs.rows - 1).bit_length() + 1)]
    measures: list[tuple[bool, str, Any, str]] = [
        (needs.gpu, "offload", True, "VAE and text encoders on the CPU"),
        (True, "gradient_checkpointing", True, "gradient checkpointing"),
        *((True, "accumulate", part, f"batches in {part} parts") for part in parts),
        (eight_bit, "optimizer", "adam8bit", "8-bit Adam"),
        (settings["precision"] == "auto" and not needs.stored_half, "precision", "bf16", "bf16"),
    ]
    limit, before, now = int(limit_gib * GIB), estimate(needs, settings), dict(settings)
    said: dict[str, str] = {}
    for possible, name, value, words in measures:
        smaller = possible and estimate(needs, {**now, name: value}) < estimate(needs, now)
        if smaller and estimate(needs, now) > limit:
            now[name], said[name] = value, words
    after = estimate(needs, now)
    *most, last = said.values() or ["nothing changed"]
    listed = f"{', '.join(most)} and {last}" if most else last
    if after > limit:
        raise ConfigError(
            f"At least about {after / GIB:.1f} GiB are needed, with {listed}; "
            f"--max-memory is {limit_gib:g}. Use a smaller scope, fewer trajectories or less R."
        )
    changed = f"with {listed}; {before / GIB:.1f} GiB without" if said else ""
    text = f"About {after / GIB:.1f} GiB of {limit_gib:g} are needed"
    text += f", {changed}." if said else "; nothing had to change."
    choices = {name: now[name] for name in said}
    return MemoryPlan(choices, after, max(0, limit - _held(needs, now)), text)


def memory_needs(
    family: FamilyAdapter, parameters: Mapping[str, nn.Parameter], use: MemoryUse
) -> MemoryNeeds:
    """What a run that trains `parameters` needs; its rows are measured by one pass."""
    row, passing = measure_row(family, parameters)
    stored_half = next(family.unet.parameters()).element_size() < 4
    if stored_half:  # so measured
        row, passing = 2 * row, 2 * passing
    idle = [getattr(family.pipeline, n, None) for n in ("vae", "text_encoder", "text_encoder_2")]
    return MemoryNeeds(
        unet=sum(p.nbytes for p in family.unet.parameters()),
        idle=sum(p.nbytes for part in idle if part is not None for p in part.parameters()),
        trained=sum(p.numel() for p in parameters.values()),
        row=row,
        passing_row=passing,
        rows=use.rows,
        kept=use.kept,
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

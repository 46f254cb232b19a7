"""The UNet as a run needs it: precision, checkpointing, who shares the work, what is idle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from erasekit.errors import ConfigError, MissingExtraError
from erasekit.models.families import FamilyAdapter
from erasekit.models.processes import Processes
from erasekit.models.unet_runner import SharedRunner
from erasekit.training.settings import TrainingSettings

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_IDLE = ("vae", "text_encoder", "text_encoder_2")


def autocast_precision(
    precision: str, device: torch.device, stored: torch.dtype
) -> torch.dtype | None:
    """What the UNet computes in; None for float32.

    Args:
        precision: see `TrainingSettings`; "auto" follows what the weights are stored in.
        device: where it computes.
        stored: of the weights.

    Raises:
        ConfigError: the device can't, or the weights are stored in another half precision.
    """
    names = {dtype: name for name, dtype in _HALF.items()}
    own = names.get(stored, "fp32")
    wanted = own if precision == "auto" else precision
    if own not in ("fp32", wanted):
        raise ConfigError(
            f"The model's weights are in {own}, so it can't be trained in {wanted}; use "
            f"--precision {own}, or load it in fp32."
        )
    if wanted == "fp32":
        return None
    missing = not torch.amp.is_autocast_available(device.type)
    if device.type == "cuda" and wanted == "bf16":
        missing = missing or not torch.cuda.is_bf16_supported()
    if missing:
        raise ConfigError(
            f"The device {device.type!r} can't compute in {wanted}; use --precision fp32."
        )
    return _HALF[wanted]


@contextmanager
def prepared_unet(
    family: FamilyAdapter,
    parameters: Mapping[str, nn.Parameter],
    settings: TrainingSettings,
    processes: Processes,
) -> Iterator[None]:
    """For the block, UNet passes are carried out as the settings say.

    Raises:
        ConfigError: the device can't compute in that precision, or the UNet can't checkpoint.
    """
    stored = next((p.dtype for p in family.unet.parameters() if p.dtype in _HALF.values()), None)
    autocast = autocast_precision(settings.precision, family.device, stored or torch.float32)
    unet: Any = family.unet
    if settings.gradient_checkpointing and not hasattr(unet, "enable_gradient_checkpointing"):
        raise ConfigError(
            f"A {type(unet).__name__} can't checkpoint; use --set gradient_checkpointing=false."
        )
    was, before = bool(getattr(unet, "is_gradient_checkpointing", False)), family.runner
    family.runner = SharedRunner(
        unet,
        parameters,
        processes,
        autocast,
        settings.accumulate,
        settings.gradient_checkpointing or was,
    )
    compiled = unet._compiled_call_impl
    try:
        if settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if settings.compile_unet:
            unet.compile(backend=settings.compile_unet)
        yield
    finally:
        family.runner, unet._compiled_call_impl = before, compiled
        if settings.gradient_checkpointing and not was:
            unet.disable_gradient_checkpointing()


@contextmanager
def idle_parts_offloaded(pipeline: Any, wanted: bool) -> Iterator[None]:
    """For the block, VAE and text encoders are on the CPU, where the UNet is not."""
    device = pipeline.unet.device
    parts = [getattr(pipeline, name, None) for name in _IDLE]
    moved = [p for p in parts if p is not None and wanted and device.type != "cpu"]
    try:
        for part in moved:
            part.to("cpu")
        if moved and device.type == "cuda":
            torch.cuda.empty_cache()
        yield
    finally:
        for part in moved:
            part.to(device)


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """Adam over the parameters that are trained, which may be none.

    On the CPU in torch's fused form: one pass over each tensor in place of a dozen.

    Raises:
        MissingExtraError: 8-bit Adam without bitsandbytes.
    """
    values = [{"params": list(parameters.values())}]
    if settings.optimizer == "adam":
        on_cpu = bool(parameters) and all(p.device.type == "cpu" for p in parameters.values())
        return torch.optim.Adam(values, lr=settings.learning_rate, fused=on_cpu or None)
    try:
        from bitsandbytes.optim import Adam8bit
    except ImportError as error:
        raise MissingExtraError("The optimizer 'adam8bit'", "8bit") from error
    optimizer: torch.optim.Optimizer = Adam8bit(values, lr=settings.learning_rate)
    return optimizer

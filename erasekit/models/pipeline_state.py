"""The state of a pipeline in memory: whether it is plain, frozen, and which edits it carries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from erasekit.errors import ModelError

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_HOOKS = ("_hf_hook", "_diffusers_hook")
"""Attributes of modules that accelerate's and diffusers' hooks leave."""


def components(pipeline: Any) -> list[nn.Module]:
    """The modules of a diffusers pipeline: UNet, VAE, text encoders."""
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


def freeze(pipeline: Any) -> None:
    """No parameter requires a gradient, and every module is in eval mode, from now on."""
    for component in components(pipeline):
        component.requires_grad_(False).eval()


@contextmanager
def held_still(pipeline: Any) -> Iterator[None]:
    """The pipeline frozen for the block.

    Afterwards every parameter's `requires_grad` and gradient, and every module's train or eval
    mode, are as they were, also where the block fails.
    """
    parts = components(pipeline)
    parameters = [(p, p.requires_grad, p.grad) for part in parts for p in part.parameters()]
    training = [module for part in parts for module in part.modules() if module.training]
    freeze(pipeline)
    try:
        yield
    finally:
        for parameter, wanted, gradient in parameters:
            if wanted:
                parameter.requires_grad_(True)
            if gradient is not None:
                parameter.grad = gradient
        for module in training:
            module.training = True


def check_plain(pipeline: Any) -> None:
    """Check that the weights of a pipeline are its own, under their plain names, and in memory.

    What is trained is found by its name, saved under it, and swapped for another tensor; that goes
    wrong without a word where a LoRA, a compiled module or an offloading hook stands in between.

    Raises:
        ModelError: they are not; says what to do.
    """
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and (reason := _not_plain(component)):
            raise ModelError(
                f"This {type(pipeline).__name__} can't be worked on: its {name} {reason}."
            )


_FOREIGN_NAMES = (
    (
        ("_orig_mod.",),
        "is compiled (torch.compile); give the plain module, its `_orig_mod`, and compile "
        "afterwards",
    ),
    (
        (".base_layer.", ".lora_"),
        "has a LoRA or another adapter loaded; call unload_lora_weights(), or fuse_lora() and then "
        "unload_lora_weights() to make it part of the model",
    ),
    (
        (".processor.",),
        "has attention processors with weights, as an IP-Adapter has; call unload_ip_adapter(), or "
        "load it again without",
    ),
    (
        (".to_qkv.", ".to_kv."),
        "has fused projections; load it again without fuse_qkv_projections()",
    ),
)
"""What parts of parameters' names say of a module, and the remedy."""


def _not_plain(module: nn.Module) -> str | None:
    """What stands between weights and their names, and the remedy; None where nothing does."""
    parameters = dict(module.named_parameters())
    if parameters and all(name.startswith("module.") for name in parameters):
        return f"is wrapped in a {type(module).__name__}; give the plain module, its `module`"
    for marks, reason in _FOREIGN_NAMES:
        if any(mark in name for name in parameters for mark in marks):
            return reason
    hooked = [h for part in module.modules() for h in _HOOKS if hasattr(part, h)]
    if _HOOKS[0] in hooked or any(p.is_meta for p in parameters.values()):
        return (
            "is offloaded (enable_model_cpu_offload, enable_sequential_cpu_offload or device_map); "
            "call remove_all_hooks() or reset_device_map(), and to(device)"
        )
    if hooked:
        return (
            "has hooks of diffusers (group offloading, layerwise casting or a cache); load the "
            "pipeline again without them"
        )
    odd = {p.dtype for p in parameters.values()} - set(_DTYPES)
    if odd:
        return f"is quantised ({', '.join(map(str, odd))}); load it in float32, bfloat16 or float16"
    return None


_CARRIED = "_erasekit_carried"
"""Attribute of a UNet that lists the edits applied to it; absent where there are none."""


@dataclass(frozen=True)
class CarriedEdit:
    """One edit that a UNet carries now.

    Attributes:
        base: hash of the model under all edits; "" where nobody asked.
        parameters: names of the parameters it changed.
        inference: identity of its inference part, or "".
    """

    base: str
    parameters: frozenset[str]
    inference: str = ""


def carried_edits(unet: nn.Module) -> tuple[CarriedEdit, ...]:
    """The edits that a UNet carries now, the first one first."""
    return tuple(unet.__dict__.get(_CARRIED, ()))


@contextmanager
def carrying(unet: nn.Module, edit: CarriedEdit) -> Iterator[None]:
    """For the block, the UNet is known to carry this edit."""
    edits = unet.__dict__.setdefault(_CARRIED, [])
    edits.append(edit)
    try:
        yield
    finally:
        edits.pop()
        if not edits:
            del unet.__dict__[_CARRIED]

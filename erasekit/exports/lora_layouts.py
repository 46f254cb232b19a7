"""How LoRA files name their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from erasekit.exports.formats import Layout
from erasekit.exports.original_keys import unet_module

if TYPE_CHECKING:
    from erasekit.exports.lora import Factors

Place = Callable[[str], str]
Written = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and metadata."""

_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def place_of(family: str, layout: Layout, unet_config: Mapping[str, Any]) -> Place:
    """A function from a UNet module's name to the name the layout has for it.

    kohya's scripts train Stable Diffusion 1 and 2 on diffusers' UNet and XL on the original one,
    and name modules by it; ComfyUI and A1111 expect the same.
    """
    if layout is Layout.KOHYA and family == "sdxl":
        return unet_module(unet_config)
    return lambda module: module


def diffusers_layout(factors: Mapping[str, Factors], place: Place, family: str) -> Written:
    """peft's names, as diffusers' `load_lora_weights` reads: W + lora_B @ lora_A."""
    tensors = {}
    for module, factor in factors.items():
        tensors[f"unet.{place(module)}.lora_A.weight"] = factor.down
        tensors[f"unet.{place(module)}.lora_B.weight"] = factor.up
    return tensors, {}


def kohya_layout(factors: Mapping[str, Factors], place: Place, family: str) -> Written:
    """kohya's names: W + alpha / rank * lora_up @ lora_down; all alphas are equal."""
    tensors = {}
    for module, factor in factors.items():
        name = "lora_unet_" + place(module).replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = factor.down
        tensors[f"{name}.lora_up.weight"] = factor.up
        tensors[f"{name}.alpha"] = torch.tensor(factor.alpha)
    largest = str(max(factor.rank for factor in factors.values()))
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": largest,
        "ss_network_alpha": largest,
        "ss_v2": str(family == "sd2"),
        "ss_base_model_version": _BASE_VERSIONS.get(family, ""),
    }
    return tensors, metadata


LAYOUTS: dict[Layout, Callable[[Mapping[str, Factors], Place, str], Written]] = {
    Layout.DIFFUSERS: diffusers_layout,
    Layout.KOHYA: kohya_layout,
}

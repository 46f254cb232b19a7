"""From diffusers' names of parameters to those of the original Stable Diffusion repositories.

The original UNet is one flat list of input blocks, a middle, and output blocks; diffusers groups
them by resolution. With L resnets per block, diffusers' down block i, resnet j is input block
1 + i (L + 1) + j, and its downsampler the input block after the last of them. Within a block,
part 0 is the resnet, part 1 the attention (where there is one), the next the upsampler.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from erasekit.errors import EditError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(.*)"
)
_VAE_MIDDLE = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}
_VAE_PARTS = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "conv_shortcut": "nin_shortcut",
}
_VAE_MID_BLOCK = re.compile(r"(encoder|decoder)\.mid_block\.((?:resnets|attentions)\.\d+)(.*)")
_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def unet_module(config: Mapping[str, Any]) -> Callable[[str], str]:
    """A function from a UNet module's or parameter's name to the original one, without prefix.

    Args:
        config: the UNet's configuration, as diffusers has it.

    The function raises `EditError` for a name the original layout has no place for.
    """
    per_block = config["layers_per_block"]
    if not isinstance(per_block, int):
        raise EditError(
            f"This UNet has {per_block} layers per block; the original layout holds UNets with one "
            "number for all blocks. Export --to diffusers."
        )
    attended = ["Attn" in kind for kind in config["up_block_types"]]

    def place(name: str) -> str:
        for ours, theirs in _UNET_ENDS.items():
            if f"{name}.".startswith(f"{ours}."):
                rest = name.removeprefix(ours)
                return theirs + (_renamed(rest, _UNET_RESNET) if ".resnets." in ours else rest)
        if match := _BLOCK.fullmatch(name):
            way, part, rest = match.group(1, 3, 5)
            block, index = int(match.group(2)), int(match.group(4))
            first = block * (per_block + 1)
            if part == "downsamplers":
                return f"input_blocks.{first + per_block + 1}.0{rest.replace('.conv', '.op', 1)}"
            if part == "upsamplers":
                return f"output_blocks.{first + per_block}.{1 + attended[block]}{rest}"
            inside = f".1{rest}" if part == "attentions" else f".0{_renamed(rest, _UNET_RESNET)}"
            if way == "down":
                return f"input_blocks.{1 + first + index}{inside}"
            return f"output_blocks.{first + index}{inside}"
        raise EditError(
            f"The original layout has no place for the UNet's {name!r}; export --to diffusers."
        )

    return place


def original_unet(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A UNet's state under its original names, without prefix."""
    place = unet_module(config)
    return {place(name): value for name, value in tensors.items()}


def original_vae(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A VAE's state under its original names, without prefix; attention as 1x1 convolutions."""
    last = len(config["up_block_types"]) - 1
    result = {}
    for name, value in tensors.items():
        new = _vae_name(name, last)
        if ".mid.attn_1." in new and new.endswith("weight") and ".norm." not in new:
            value = value.reshape(*value.shape[:2], 1, 1)
        result[new] = value
    return result


def _vae_name(name: str, last: int) -> str:
    if match := _VAE_MID_BLOCK.fullmatch(name):
        side, part, rest = match.groups()
        return f"{side}.mid.{_VAE_MIDDLE[part]}{_renamed(rest, _VAE_PARTS)}"
    side, _, inside = name.partition(".")
    if match := _BLOCK.fullmatch(inside):
        way, block, part, index, rest = match.groups()
        level = int(block) if way == "down" else last - int(block)
        kind = f"block.{index}" if part == "resnets" else part.removesuffix("rs")
        return f"{side}.{way}.{level}.{kind}{_renamed(rest, _VAE_PARTS)}"
    return name.replace("conv_norm_out", "norm_out")


def original_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP text encoder's state as Stable Diffusion 1 has it: "text_model." before all names.

    transformers leaves that prefix out since 5.6. Position ids, which follow from the length,
    are left out.
    """
    return {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in tensors.items()
        if not name.endswith("position_ids")
    }


def original_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An OpenCLIP text encoder's state under its own names: q, k and v fused, projection turned."""
    result: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = {}
    for full, value in original_clip(tensors).items():
        name = full.removeprefix("text_model.")
        if match := _LAYER.fullmatch(name):
            layer, inside, kind = match.groups()
            block = f"transformer.resblocks.{layer}"
            if inside in _OPEN_CLIP_LAYER:
                result[f"{block}.{_OPEN_CLIP_LAYER[inside]}.{kind}"] = value
            else:  # self_attn.q_proj and its like
                part = inside.removeprefix("self_attn.")
                fused.setdefault(f"{block}.attn.in_proj_{kind}", {})[part] = value
        else:
            new = _OPEN_CLIP_ENDS[name]
            result[new] = value.T if new == "text_projection" else value
    for name, parts in fused.items():
        result[name] = torch.cat([parts[f"{part}_proj"] for part in "qkv"])
    return result


def _renamed(rest: str, names: Mapping[str, str]) -> str:
    """`rest`, ".part.weight" or ".part", with its part renamed."""
    for ours, theirs in names.items():
        if f"{rest}.".startswith(f".{ours}."):
            return f".{theirs}{rest[len(ours) + 1 :]}"
    return rest


_ENCODERS: dict[str, list[tuple[str, str, Callable[[dict[str, Tensor]], dict[str, Tensor]]]]] = {
    "sd1": [("text_encoder", CLIP, original_clip)],
    "sd2": [("text_encoder", OPEN_CLIP, original_open_clip)],
    "sdxl": [
        ("text_encoder", XL_CLIP, original_clip),
        ("text_encoder_2", XL_OPEN_CLIP, original_open_clip),
    ],
}
"""By family: the pipeline's text encoders, each with its prefix and how its names change."""


def original_state(pipeline: Any, family: str) -> dict[str, Tensor]:
    """All weights of a pipeline under their original names.

    Args:
        pipeline: UNet, VAE and text encoders of it are taken.
        family: "sd1", "sd2" or "sdxl".

    Raises:
        EditError: another family, or a part of the model has no place in the layout.
    """
    if family not in _ENCODERS:
        raise EditError(
            f"There is no original layout known for the family {family!r}, only for "
            f"{', '.join(_ENCODERS)}; export --to diffusers."
        )
    unet, vae = pipeline.unet, pipeline.vae
    parts = [
        (UNET, original_unet(unet.state_dict(), unet.config)),
        (VAE, original_vae(vae.state_dict(), vae.config)),
    ]
    for component, prefix, original in _ENCODERS[family]:
        parts.append((prefix, original(getattr(pipeline, component).state_dict())))
    return {prefix + name: value for prefix, state in parts for name, value in state.items()}

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
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")
_MID_BLOCK = re.compile(r"mid_block\.((?:resnets|attentions)\.\d+)")

_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_VAE_MIDDLE = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}
_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)"
)
_VAE_MID_BLOCK = re.compile(r"(encoder|decoder)\.mid_block\.((?:resnets|attentions)\.\d+)")

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
_OPEN_CLIP_QKV = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")
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
            if name == ours or name.startswith(ours + "."):
                return theirs + name.removeprefix(ours)
        if match := _MID_BLOCK.match(name):
            part = match.group(1)
            if part in _MIDDLE:
                return f"middle_block.{_MIDDLE[part]}{_inside(name[match.end() :], part)}"
        if match := _BLOCK.match(name):
            block, index, part = int(match.group(2)), int(match.group(4)), match.group(3)
            first, rest = block * (per_block + 1), name[match.end() :]
            if part == "downsamplers":
                return f"input_blocks.{first + per_block + 1}.0{rest.replace('.conv', '.op', 1)}"
            if part == "upsamplers":
                position = 2 if attended[block] else 1
                return f"output_blocks.{first + per_block}.{position}{rest}"
            position, inside = int(part == "attentions"), _inside(rest, part)
            if match.group(1) == "down":
                return f"input_blocks.{1 + first + index}.{position}{inside}"
            return f"output_blocks.{first + index}.{position}{inside}"
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
    if match := _VAE_MID_BLOCK.match(name):
        side, part = match.groups()
        rest = _renamed(name[match.end() :], {**_VAE_ATTENTION, "conv_shortcut": "nin_shortcut"})
        return f"{side}.mid.{_VAE_MIDDLE[part]}{rest}"
    if match := _VAE_BLOCK.match(name):
        side, way, part, index = match.group(1, 2, 4, 5)
        block = int(match.group(3))
        level = block if way == "down" else last - block
        rest = _renamed(name[match.end() :], {"conv_shortcut": "nin_shortcut"})
        if part == "resnets":
            return f"{side}.{way}.{level}.block.{index}{rest}"
        return f"{side}.{way}.{level}.{part.removesuffix('rs')}{rest}"
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
    for full, value in tensors.items():
        name = full.removeprefix("text_model.")
        if name.endswith("position_ids"):
            continue
        if match := _OPEN_CLIP_QKV.fullmatch(name):
            layer, part, kind = match.groups()
            fused.setdefault(f"transformer.resblocks.{layer}.attn.in_proj_{kind}", {})[part] = value
        elif match := _LAYER.fullmatch(name):
            layer, inside, kind = match.groups()
            result[f"transformer.resblocks.{layer}.{_OPEN_CLIP_LAYER[inside]}.{kind}"] = value
        else:
            new = _OPEN_CLIP_ENDS[name]
            result[new] = value.T if new == "text_projection" else value
    for name, parts in fused.items():
        result[name] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return result


def _inside(rest: str, part: str) -> str:
    """Names within a resnet or an attention of the UNet; the latter keep theirs."""
    return _renamed(rest, _RESNET) if part.startswith("resnets") else rest


def _renamed(rest: str, names: Mapping[str, str]) -> str:
    """`rest`, ".part.weight" or ".part", with its part renamed."""
    for ours, theirs in names.items():
        if rest == f".{ours}" or rest.startswith(f".{ours}."):
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
    state = {}
    for name, value in original_unet(unet.state_dict(), unet.config).items():
        state[UNET + name] = value
    for name, value in original_vae(vae.state_dict(), vae.config).items():
        state[VAE + name] = value
    for component, prefix, original in _ENCODERS[family]:
        for name, value in original(getattr(pipeline, component).state_dict()).items():
            state[prefix + name] = value
    return state

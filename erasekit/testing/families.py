"""Pipelines of every family: its real configuration, with tiny sizes in place of the real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from erasekit.models.single_file import bundled_config

_TWO_BLOCKS = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
}
_PROJECTION, _TIME = 24, 8
_UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd1": {**_TWO_BLOCKS, "layers_per_block": 1},
    "sd2": {**_TWO_BLOCKS, "attention_head_dim": (2, 4)},
    "sdxl": {
        "block_out_channels": (16, 32, 32),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 16 + 32,
        "attention_head_dim": (2, 4, 4),
        "addition_time_embed_dim": _TIME,
        "projection_class_embeddings_input_dim": _PROJECTION + 6 * _TIME,
    },
}
"""What is smaller than in the real UNet; all else is as its configuration says."""
_VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 16,
}


def build_pipeline(family: str, tokenizer: Any) -> Any:
    """A diffusers pipeline of the family with random weights: 4x8x8 latents, 16x16 pixels.

    Args:
        family: sd1, sd2 (predicts v) or sdxl.
        tokenizer: read by all its text encoders.
    """
    import diffusers

    index = json.loads((bundled_config(family) / "model_index.json").read_text("utf-8"))
    parts: dict[str, Any] = {
        name: None
        for name, value in index.items()
        if isinstance(value, list) and not name.startswith("_")
    }
    for name in sorted(parts):  # in this order they draw their random numbers
        if name.startswith("text_encoder"):
            parts[name] = _text_encoder(family, name, index[name][1], tokenizer)
        elif name.startswith("tokenizer"):
            parts[name] = tokenizer
    parts["unet"] = diffusers.UNet2DConditionModel.from_config(
        {**_config(family, "unet"), **_UNETS[family], "sample_size": 8, "norm_num_groups": 8}
    )
    parts["vae"] = diffusers.AutoencoderKL.from_config({**_config(family, "vae"), **_VAE})
    # Stable Diffusion 1's own scheduler needs four steps before it is itself
    scheduler = "DDIMScheduler" if family == "sd1" else index["scheduler"][1]
    parts["scheduler"] = getattr(diffusers, scheduler).from_config(_config(family, "scheduler"))
    options = {"add_watermarker": False} if family == "sdxl" else {"requires_safety_checker": False}
    return getattr(diffusers, index["_class_name"])(**parts, **options)


def _text_encoder(family: str, name: str, kind: str, tokenizer: Any) -> Any:
    import transformers

    size = 32 if name == "text_encoder_2" else 16
    config = transformers.CLIPTextConfig(
        **{
            **_config(family, name),
            "vocab_size": len(tokenizer),
            "hidden_size": size,
            "intermediate_size": 2 * size,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.eos_token_id,
            "projection_dim": _PROJECTION,
        }
    )
    return getattr(transformers, kind)(config)


def _config(family: str, part: str) -> dict[str, Any]:
    (path,) = (bundled_config(family) / part).glob("*config.json")
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return config

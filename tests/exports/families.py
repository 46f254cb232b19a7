"""Tiny pipelines of three families, and the true shapes of the full-size ones without memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.tiny import MAX_TOKENS, build_folder, build_tokenizer

_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 16,
}


def _text(tokenizer: Any, hidden: int, act: str, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        hidden_act=act,
        **more,
    )


def _sd2(folder: Path) -> Path:
    """OpenCLIP's activation, linear projections, v-prediction."""
    tokenizer = build_tokenizer(folder / "vocabulary")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(**_VAE),
        text_encoder=CLIPTextModel(_text(tokenizer, 16, "gelu")),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            norm_num_groups=8,
        ),
        scheduler=DDIMScheduler(
            **_NOISE, prediction_type="v_prediction", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


def _sdxl(folder: Path) -> Path:
    """Two text encoders, and attention in all but the first block, as in SDXL."""
    tokenizer = build_tokenizer(folder / "vocabulary")
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(**_VAE, force_upcast=False),
        text_encoder=CLIPTextModel(_text(tokenizer, 16, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(_text(tokenizer, 32, "gelu", projection_dim=24)),
        tokenizer=tokenizer,
        tokenizer_2=build_tokenizer(folder / "vocabulary"),
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=48,
            attention_head_dim=(2, 4, 4),
            use_linear_projection=True,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(**_NOISE, steps_offset=1),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


BUILDERS = {"sd1": build_folder, "sd2": _sd2, "sdxl": _sdxl}


def build(family: str, folder: Path) -> Path:
    """A diffusers folder of a tiny random model of the family."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return BUILDERS[family](folder)


_BLOCKS = {
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**_BLOCKS, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        **_BLOCKS,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""The UNets of Stable Diffusion 1.5, 2.1 and XL base, as their configurations say."""

_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
TEXTS: dict[str, dict[str, Any]] = {
    "clip-l": _CLIP_L,
    "clip-h": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
    },
    "clip-g": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
}


@cache
def full_unet(family: str) -> UNet2DConditionModel:
    """The full-size UNet on the meta device."""
    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, **UNETS[family])


@cache
def full_vae() -> AutoencoderKL:
    """The VAE of all three families, on the meta device."""
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )


@cache
def full_text(name: str) -> Any:
    """A full-size text encoder on the meta device."""
    kind = CLIPTextModelWithProjection if name == "clip-g" else CLIPTextModel
    with torch.device("meta"):
        return kind(CLIPTextConfig(**TEXTS[name]))

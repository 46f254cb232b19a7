"""Tiny pipelines of every family: its real configuration, tiny sizes, seeded random weights."""

from __future__ import annotations

import atexit
import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from erasekit.models.loading import LoadedModel, wrap_pipeline
from erasekit.models.pipeline_state import freeze
from erasekit.models.single_file import bundled_config
from erasekit.plugin.descriptors import ModelDescriptor

MAX_TOKENS = 16
WORDS = (
    *("garbage", "truck", "church", "castle", "bus", "car", "road", "banana", "apple"),
    *("a", "photo", "image", "of", "red", "blue"),
)
"""Words that the tiny model's tokenizer knows whole; it knows every other by its letters."""

TINY_DEFAULTS: Mapping[str, Any] = {
    "steps": 6,
    "learning_rate": 1e-3,
    "batch_size": 2,
    "trajectory_steps": 4,
    "trajectories": 2,
    "keep_trajectories": 1,
    "checkpoint_every": 2,
}
"""What the tiny model's registration says for all methods, where a method has the key."""

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


def build_tiny_folder(folder: Path, seed: int = 0, family: str = "sd1") -> Path:
    """Write a diffusers folder of a random model (4x8x8 latents, 16x16 pixels); gives its path.

    Its cross-attention is stronger than a random start's, so that prompts matter.

    Args:
        folder: where `model` is made.
        seed: of the weights; the global random state is left as it was.
        family: sd1, sd2 (predicts v) or sdxl.
    """
    tokenizer = build_tokenizer(folder / "vocabulary")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _build_pipeline(family, tokenizer)
    with torch.no_grad():
        for name, parameter in pipeline.unet.named_parameters():
            if "attn2" in name and name.endswith("weight"):
                parameter.mul_(2)
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


def build_tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that knows `WORDS` whole, and letters; its files are kept in `folder`."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens.append(parts[0])
    tokens, merges = list(dict.fromkeys(tokens)), list(dict.fromkeys(merges))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    files = (folder / "vocab.json", folder / "merges.txt")
    files[0].write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    files[1].write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(*map(str, files), model_max_length=MAX_TOKENS)


def _build_pipeline(family: str, tokenizer: Any) -> Any:
    """A diffusers pipeline of the family with random weights; text encoders share `tokenizer`."""
    import diffusers
    import transformers

    index = _config(family, "model_index.json")
    kinds = {name: v[1] for name, v in index.items() if isinstance(v, list) and name[0] != "_"}
    # Stable Diffusion 1's own scheduler needs four steps before it is itself
    kinds["scheduler"] = "DDIMScheduler" if family == "sd1" else kinds["scheduler"]
    parts: dict[str, Any] = dict.fromkeys(kinds)
    for name in sorted(parts):  # in this order they draw their random numbers
        if name.startswith("tokenizer"):
            parts[name] = tokenizer
        if not name.startswith("text_encoder"):
            continue
        size = 32 if name == "text_encoder_2" else 16
        small = {
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
        config = transformers.CLIPTextConfig(**_config(family, f"{name}/config.json", small))
        parts[name] = getattr(transformers, kinds[name])(config)
    small = {**_UNETS[family], "sample_size": 8, "norm_num_groups": 8}
    changes: dict[str, Mapping[str, Any]] = {"unet": small, "vae": _VAE, "scheduler": {}}
    for name, change in changes.items():
        config = _config(family, f"{name}/*config.json", change)
        parts[name] = getattr(diffusers, kinds[name]).from_config(config)
    options = {"add_watermarker": False} if family == "sdxl" else {"requires_safety_checker": False}
    return getattr(diffusers, str(index["_class_name"]))(**parts, **options)


def _config(family: str, pattern: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    (path,) = bundled_config(family).glob(pattern)
    return {**json.loads(path.read_text("utf-8")), **(changes or {})}


@cache
def tiny_folder(family: str = "sd1") -> Path:
    """The diffusers folder of the tiny model; made once a process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="erasekit-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_tiny_folder(folder, family=family)


@cache
def _tiny_pipeline(family: str) -> Any:
    import diffusers

    kind = getattr(diffusers, str(_config(family, "model_index.json")["_class_name"]))
    return kind.from_pretrained(tiny_folder(family), local_files_only=True)


def tiny_model(family: str = "sd1") -> LoadedModel:
    """The tiny model, a fresh copy in memory.

    Its concept space is `WORDS`, and its defaults are `TINY_DEFAULTS`, so that a few steps of
    any method take little.

    Args:
        family: sd1, sd2 (predicts v) or sdxl.
    """
    pipeline = copy.deepcopy(_tiny_pipeline(family))
    descriptor = ModelDescriptor(
        "tiny",
        "a tiny random model",
        "",
        concept_space="vocabulary",
        guidance_scale=4.0,
        num_inference_steps=4,
        defaults={"*": TINY_DEFAULTS},
    )
    freeze(pipeline)
    return wrap_pipeline(pipeline, "tiny", descriptor)

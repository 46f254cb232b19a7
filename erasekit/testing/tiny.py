"""A tiny pipeline with Stable Diffusion's anatomy and seeded random weights."""

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


def build_tiny_folder(folder: Path, seed: int = 0, family: str = "sd1") -> Path:
    """Write a diffusers folder of a random model (4x8x8 latents, 16x16 pixels); gives its path.

    Its cross-attention is stronger than a random start's, so that prompts matter.

    Args:
        folder: where `model` is made.
        seed: of the weights; the global random state is left as it was.
        family: sd1, sd2 (predicts v) or sdxl.
    """
    from erasekit.testing.families import build_pipeline

    tokenizer = build_tokenizer(folder / "vocabulary")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = build_pipeline(family, tokenizer)
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
            pair = f"{parts[0]} {parts[1]}"
            if pair not in merges:
                merges.append(pair)
            parts = [parts[0] + parts[1], *parts[2:]]
            if parts[0] not in tokens:
                tokens.append(parts[0])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    vocabulary["<|startoftext|>"] = len(vocabulary)
    vocabulary["<|endoftext|>"] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    )


@cache
def tiny_folder(family: str = "sd1") -> Path:
    """The diffusers folder of the tiny model; made once a process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="erasekit-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_tiny_folder(folder, family=family)


@cache
def _tiny_pipeline(family: str) -> Any:
    import diffusers

    index = json.loads((tiny_folder(family) / "model_index.json").read_text(encoding="utf-8"))
    kind = getattr(diffusers, index["_class_name"])
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

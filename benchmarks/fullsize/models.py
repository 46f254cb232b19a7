"""Models of the real shapes: with random weights, or as numbers of parameters alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ENCODER_LAYERS = 2
TOKENS = 77


def build_pipeline(family: str, dtype: str, scratch: str, latents: int = 0) -> Any:
    """A diffusers pipeline of the family's real shapes, its weights random.

    The text encoders have their width and two layers, as they are idle in training, and the
    tokenizer knows few words.

    Args:
        dtype: a key of `DTYPES`.
        scratch: a folder for the tokenizer's files.
        latents: side of a latent; 0 is the family's own.
    """
    import torch

    from erasekit.testing.tiny import build_tokenizer

    def tokenizer(name: str) -> Any:
        made = build_tokenizer(Path(scratch))
        made.model_max_length = TOKENS
        return made

    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, DTYPES[dtype]))
    try:
        kind, parts = _parts(family, tokenizer, latents, ENCODER_LAYERS)
    finally:
        torch.set_default_dtype(torch.float32)
    options = {"add_watermarker": False} if family == "sdxl" else {"requires_safety_checker": False}
    return kind(**parts, **options)


def parameter_counts(family: str) -> dict[str, int]:
    """Parameters of each part of the real model, and of its UNet's cross-attention ("xattn")."""
    import torch

    from erasekit.diffusion.scope import ParameterScope

    _, parts = _parts(family, lambda _: None, device="meta")
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in parts.items()
        if isinstance(part, torch.nn.Module)
    }
    scope = ParameterScope("xattn").select(parts["unet"])
    return {**counts, "xattn": sum(p.numel() for p in scope.values())}


def _parts(
    family: str,
    tokenizer: Callable[[str], Any],
    latents: int = 0,
    layers: int = 0,
    device: str = "cpu",
) -> tuple[Any, dict[str, Any]]:
    """The pipeline's class and its parts, in the default precision.

    Args:
        tokenizer: makes the one of this name.
        layers: of the text encoders; 0 is their own number.
        device: of the weights.
    """
    import diffusers
    import torch
    import transformers

    from erasekit.models.single_file import bundled_config

    folder = bundled_config(family)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        library, kind = value
        if not (folder / name).is_dir():
            parts[name] = None
        elif name.startswith("tokenizer"):
            parts[name] = tokenizer(name)
        elif name.startswith("text_encoder"):
            config = transformers.CLIPTextConfig.from_pretrained(folder / name)
            config.num_hidden_layers = layers or config.num_hidden_layers
            with torch.device(device):
                parts[name] = getattr(transformers, kind)(config).eval()
        else:
            source = getattr(diffusers if library == "diffusers" else transformers, kind)
            config = dict(source.load_config(folder / name))
            if name == "unet" and latents:
                config["sample_size"] = latents
            if name not in ("unet", "vae"):
                parts[name] = source.from_config(config)
                continue
            with torch.device(device):
                parts[name] = source.from_config(config).eval()
    return getattr(diffusers, index["_class_name"]), parts

"""A tiny scorer in open_clip's folder layout, with seeded random weights."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.tiny import build_tokenizer

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def build_scorer_folder(folder: Path, seed: int = 0) -> Path:
    """Write `open_clip_config.json`, weights and tokenizer; images are read at 20x20 pixels."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(folder)
    tokenizer.save_pretrained(folder)
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {
                "image_size": 20,
                "layers": 1,
                "width": 32,
                "head_width": 16,
                "patch_size": 5,
            },
            "text_cfg": {
                "context_length": 16,
                "vocab_size": len(tokenizer),
                "width": 32,
                "heads": 2,
                "layers": 1,
                "hf_tokenizer_name": "local",
            },
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bilinear"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    network = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_scorer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip folder of a tiny random scorer."""
    return build_scorer_folder(tmp_path_factory.mktemp("tiny-clip"))


@pytest.fixture(scope="session")
def tiny_scorer(tiny_scorer_folder: Path):
    """The tiny scorer, loaded."""
    from erasekit.metrics.judges.open_clip import open_clip_folder

    return open_clip_folder(str(tiny_scorer_folder), "tiny-clip")

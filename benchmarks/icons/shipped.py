"""`python -m benchmarks.icons shipped`: measure the packed generator again, by the packed scorer.

Needs no data and no checkpoint. 20 pictures a concept; its figures replace those in icons.json and
the model card. About ten minutes on two cores.
"""

from __future__ import annotations

import json

import open_clip
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.icons.card import quality
from benchmarks.icons.evaluate import measure_generator
from benchmarks.icons.pack import EMBEDDED


def measure_shipped(images: int = 20) -> None:
    """Draw, score, and write the figures."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        EMBEDDED / "icons", torch_dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    scorer = open_clip.create_model(f"local-dir:{EMBEDDED / 'icons-clip'}", precision="fp32")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{EMBEDDED / 'icons-clip'}")
    figures = measure_generator(
        pipeline, scorer.eval().requires_grad_(False), tokenizer, images, prefix="shipped"
    )
    path, card = EMBEDDED / "icons.json", EMBEDDED / "MODEL_CARD.md"
    content = json.loads(path.read_text(encoding="utf-8"))
    before = quality(content["metrics"])
    content["metrics"]["generator"] = figures
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = card.read_text(encoding="utf-8")
    if before not in text:
        raise ValueError(f"{card} does not hold the figures of {path}")
    card.write_text(text.replace(before, quality(content["metrics"])), encoding="utf-8")
    print(f"generator: top-1 {figures['top1']:.1f} %, top-5 {figures['top5']:.1f} %")

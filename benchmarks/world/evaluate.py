"""Measure the model: the scorer on drawings it never saw, and the generator by the scorer.

`python -m benchmarks.world evaluate`: 4 pictures of each concept (`--quick`: of every eighth), 300
pairs that training showed and 300 that it never did, in 25 steps. Writes build/metrics.json and
sheets to look at in build/look/; says what passes of what the model must reach to be the default.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from torch import nn

from benchmarks.world.autoencoder import sheet
from benchmarks.world.captions import PAIRS, article, known
from benchmarks.world.generator import load_pipeline
from benchmarks.world.scenes import is_unseen
from benchmarks.world.scorer import (
    accuracy,
    load_scorer,
    ranks,
    scores,
    text_matrix,
    unseen,
    unseen_pairs,
)
from benchmarks.world.sprites import BUILD, JUDGED, load_sprites

STEPS, GUIDANCE = 25, 3.0
"""The sampler steps and the guidance scale that the model is recommended with."""
LOOK, METRICS = BUILD / "look", BUILD / "metrics.json"
SHOWN = (
    "a garbage truck next to a church",
    "a red car",
    "a cat on a blue background",
    "an apple on the left",
    "a dog and a pizza",
    "a church in the style of 3d render",
    "a photo of a vehicle",
    "a purple guitar on a yellow background",
    "a castle on the left and a dragon on the right",
    "a photo of a tench",
    "",
)
"""Prompts of the sheet that a person looks at."""
GOALS = {
    "single objects, top-1 over all concepts": ("single", "top1", 85.0),
    "worst concept": ("single", "worst", 30.0),
    "unseen pairs, both named": ("unseen_pairs", "both", 60.0),
    "scorer on sets that nothing was trained on, top-1": ("scorer-eval", "top1", 75.0),
}
"""What the model must reach to become the default, in per cent."""


@torch.no_grad()
def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = STEPS,
    batch: int = 32,
) -> torch.Tensor:
    """Pictures [N, 3, H, W] in [0, 1], each from its own seed's noise, rounded as when saved."""
    side, parts = pipeline.unet.config.sample_size, []
    for start in range(0, len(prompts), batch):
        noise = [
            torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed))
            for seed in seeds[start : start + batch]
        ]
        parts.append(
            pipeline(
                list(prompts[start : start + batch]),
                latents=torch.cat(noise).to(pipeline.device),
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                output_type="pt",
            )
            .images.float()
            .cpu()
        )
    return (torch.cat(parts).clamp(0, 1) * 255).round() / 255


def labelled_sheet(images: torch.Tensor, titles: Sequence[str], columns: int, path: Path) -> None:
    """One row of `columns` pictures per title."""
    pictures = sheet(images, columns)
    whole = Image.new("RGB", (pictures.width + 200, pictures.height), "white")
    whole.paste(pictures, (200, 0))
    pen, height = ImageDraw.Draw(whole), pictures.height // len(titles)
    for row, title in enumerate(titles):
        pen.text((4, row * height + height // 2), title or '""', fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path)


def shown_sheet(pipeline: StableDiffusionPipeline, path: Path, columns: int = 6) -> None:
    """The prompts of SHOWN, a row each."""
    prompts = [prompt for prompt in SHOWN for _ in range(columns)]
    drawn = draw(pipeline, prompts, list(range(columns)) * len(SHOWN))
    labelled_sheet(drawn, SHOWN, columns, path)


def pairs(count: int, never_shown: bool, random: Random) -> list[tuple[int, int]]:
    """Pairs of concepts' numbers that training showed, or never did."""
    names = [n.name for n in known()]
    found: list[tuple[int, int]] = []
    while len(found) < count:
        first, second = random.sample(range(len(names)), 2)
        if is_unseen(names[first], names[second]) == never_shown:
            found.append((first, second))
    return found


def measure_pairs(
    pipeline: StableDiffusionPipeline,
    scorer: nn.Module,
    text: torch.Tensor,
    count: int,
    never_shown: bool,
    prefix: str = "",
) -> dict[str, float]:
    """How often the two best names of a picture of two things are both right."""
    random = Random(f"pairs {never_shown}")
    names, chosen = [n.name for n in known()], pairs(count, never_shown, random)
    prompts = [
        PAIRS[0].format(article(names[first]), article(names[second])) for first, second in chosen
    ]
    drawn = draw(pipeline, prompts, range(count))
    if prefix:
        labelled_sheet(drawn[:12], prompts[:12], 1, LOOK / f"{prefix}.png")
    return accuracy(scores(scorer, drawn, text), torch.tensor(chosen))


def measure_single(
    pipeline: StableDiffusionPipeline,
    scorer: nn.Module,
    text: torch.Tensor,
    images: int,
    concepts: Sequence[int],
    prefix: str = "",
) -> dict[str, Any]:
    """Top-1 and top-5 over all concepts of pictures drawn from "a photo of NAME"."""
    names = [n.name for n in known()]
    prompts = [f"a photo of {names[i]}" for i in concepts for _ in range(images)]
    drawn = draw(pipeline, prompts, list(range(images)) * len(concepts))
    labels = torch.tensor([[i] for i in concepts for _ in range(images)])
    found = scores(scorer, drawn, text)
    places = ranks(found, labels)[:, 0].view(len(concepts), images)
    per = {names[i]: float((p < 1).float().mean()) for i, p in zip(concepts, places, strict=True)}
    if prefix:
        rows = 16
        for start in range(0, len(concepts), rows):
            part = drawn[start * images : (start + rows) * images]
            titles = [names[i] for i in concepts[start : start + rows]]
            labelled_sheet(part, titles, images, LOOK / f"{prefix}-{start // rows:02d}.png")
    worst = min(per.values())
    return {
        **accuracy(found, labels),
        "worst": 100 * worst,
        "images_per_concept": images,
        "steps": STEPS,
        "guidance_scale": GUIDANCE,
        "per_concept": per,
    }


def seconds_for_16(pipeline: StableDiffusionPipeline) -> float:
    """Seconds for 16 pictures in 25 steps; the better of two."""
    times = []
    for _ in range(2):
        began = time.monotonic()
        draw(pipeline, ["a photo of a church"] * 16, range(16), batch=16)
        times.append(time.monotonic() - began)
    return min(times)


def verdicts(metrics: dict[str, Any]) -> list[str]:
    """A line for each goal: reached or not, and by how much."""
    lines = []
    for title, (group, key, goal) in GOALS.items():
        value = metrics[group][key]
        word = "reached" if value >= goal else f"missed by {goal - value:.1f}"
        lines.append(f"{title}: {value:.1f} % of {goal:.0f} %, {word}")
    ratio = metrics["seconds_for_16"] / metrics["icons_seconds_for_16"]
    word = "reached" if ratio <= 1.5 else "missed"
    lines.append(f"16 pictures in {STEPS} steps: {ratio:.2f} times icons' time of 1.50, {word}")
    return lines


def evaluate(quick: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measure everything and write build/metrics.json. device: where the pictures are drawn."""
    from benchmarks.world.pack import EMBEDDED

    (scorer, tokenizer), pipeline = load_scorer(), load_pipeline().to(device)
    names = [n.name for n in known()]
    text = text_matrix(scorer, tokenizer, names)
    metrics: dict[str, Any] = {"quick": quick}
    judged, drawn = load_sprites(JUDGED), load_sprites()
    for role in ("scorer-eval", "generator"):
        pictures, labels = unseen(role, judged, drawn)
        metrics[role] = accuracy(scores(scorer, pictures, text), labels)
    pictures, labels = unseen_pairs(drawn, 256)
    metrics["composed_pairs"] = accuracy(scores(scorer, pictures, text), labels)
    concepts = range(0, len(names), 8 if quick else 1)
    count = 60 if quick else 300
    metrics["single"] = measure_single(pipeline, scorer, text, 4, concepts, "single")
    metrics["seen_pairs"] = measure_pairs(pipeline, scorer, text, count, False, "seen-pairs")
    metrics["unseen_pairs"] = measure_pairs(pipeline, scorer, text, count, True, "unseen-pairs")
    shown_sheet(pipeline, LOOK / "shown.png")
    metrics["seconds_for_16"] = seconds_for_16(pipeline.to("cpu"))
    icons = StableDiffusionPipeline.from_pretrained(EMBEDDED / "icons", safety_checker=None)
    icons.set_progress_bar_config(disable=True)
    metrics["icons_seconds_for_16"] = seconds_for_16(icons)
    METRICS.write_text(json.dumps(metrics, indent=1) + "\n")
    print("\n".join(verdicts(metrics)))
    weak = sorted(metrics["single"]["per_concept"].items(), key=lambda item: item[1])[:40]
    print("weakest: " + ", ".join(f"{name} {100 * value:.0f}" for name, value in weak))
    return metrics

"""Measure the model: the scorer on drawings it never saw, and the generator by the scorer.

`python -m benchmarks.world evaluate`: 20 pictures a concept in 25 steps (`--quick`: 4 pictures).
Writes build/metrics.json (build/metrics-quick.json) and sheets to look at in build/look/.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from benchmarks.world.data import BUILD, contact_sheet, load_drawings, load_manifest
from benchmarks.world.generator import load_pipeline
from benchmarks.world.scorer import FOLDER, accuracy, load_scorer, ranks, text_matrix, unseen
from erasekit.bench.paper import IMAGENETTE

STEPS, GUIDANCE = 25, 3.0
"""The sampler steps and the guidance scale that the model is recommended with."""
LOOK = BUILD / "look"


@torch.no_grad()
def draw(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    batch: int = 32,
) -> torch.Tensor:
    """Pictures [N, 3, 64, 64] in [0, 1], each from its own seed's noise."""
    parts = []
    for start in range(0, len(prompts), batch):
        chunk = slice(start, start + batch)
        shape = (1, 4, 16, 16)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        parts.append(
            pipeline(
                prompts[chunk],
                latents=torch.cat(noise[chunk]),
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=64,
                width=64,
                output_type="pt",
            ).images
        )
    return torch.cat(parts).clamp(0, 1)


def through_bytes(images: torch.Tensor) -> torch.Tensor:
    """Round to bytes, as saved pictures are."""
    return (images * 255).round() / 255


def labelled_sheet(images: torch.Tensor, titles: list[str], columns: int, path: Path) -> None:
    """One row of `columns` pictures per title."""
    sheet = contact_sheet(images, columns)
    picture = Image.new("RGB", (sheet.shape[1] + 120, sheet.shape[0]), "white")
    picture.paste(Image.fromarray(sheet), (120, 0))
    pen = ImageDraw.Draw(picture)
    for row, title in enumerate(titles):
        pen.text((4, row * 66 + 26), title, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def measure_scorer(model: torch.nn.Module, tokenizer: Any) -> dict[str, Any]:
    """Zero-shot accuracy over all concepts on unseen drawings, bare names and "a photo of"."""
    names = [str(concept["name"]) for concept in load_manifest()["concepts"]]
    groups = unseen(load_drawings(), names)
    results: dict[str, Any] = {}
    for role, (pictures, labels) in groups.items():
        for key, template in (("", "{}"), ("_photo", "a photo of {}")):
            text = text_matrix(model, tokenizer, names, (template,))
            places = ranks(model, pictures, labels, text)
            results[role + key] = accuracy(places)
        wrong: dict[str, list[int]] = {}
        for label, place in zip(labels.tolist(), places.tolist(), strict=True):
            wrong.setdefault(names[label], []).append(place)
        results[role]["per_concept_top1"] = {
            name: round(sum(p == 0 for p in found) / len(found), 3) for name, found in wrong.items()
        }
    return results


def measure_generator(
    pipeline: StableDiffusionPipeline,
    scorer: torch.nn.Module,
    tokenizer: Any,
    images: int,
    guidance: float = GUIDANCE,
    names: list[str] | None = None,
    prefix: str = "",
) -> dict[str, Any]:
    """Top-1 and top-5 over all concepts of pictures drawn from "a photo of NAME"."""
    everything = [str(concept["name"]) for concept in load_manifest()["concepts"]]
    names = names or everything
    text = text_matrix(scorer, tokenizer, everything, ("{}", "a photo of {}"))
    began, places, pictures = time.monotonic(), [], []
    for name in names:
        drawn = draw(pipeline, [f"a photo of {name}"] * images, list(range(images)), guidance)
        pictures.append(drawn)
        labels = torch.full((images,), everything.index(name))
        places.append(ranks(scorer, through_bytes(drawn), labels, text))
    seconds = time.monotonic() - began
    if prefix:
        show = min(images, 12)
        for start in range(0, len(names), 21):
            rows = torch.cat([p[:show] for p in pictures[start : start + 21]])
            path = LOOK / f"{prefix}-{start // 21:02d}.png"
            labelled_sheet(rows, names[start : start + 21], show, path)
    per = {
        name: {"top1": float((p < 1).float().mean()), "top5": float((p < 5).float().mean())}
        for name, p in zip(names, places, strict=True)
    }
    joined = torch.cat(places)
    figures = accuracy(joined)
    return {
        "top1": figures["top1"],
        "top5": figures["top5"],
        "images": len(joined),
        "images_per_concept": images,
        "steps": STEPS,
        "guidance_scale": guidance,
        "seconds": round(seconds, 1),
        "per_concept": per,
    }


def imagenette_sheet(pipeline: StableDiffusionPipeline, path: Path, columns: int = 8) -> None:
    """The ten stand-ins of Imagenette's classes, a row each."""
    prompts = [f"a photo of {name}" for name in IMAGENETTE for _ in range(columns)]
    drawn = draw(pipeline, prompts, list(range(columns)) * len(IMAGENETTE))
    labelled_sheet(drawn, list(IMAGENETTE), columns, path)


def evaluate(quick: bool = False) -> dict[str, Any]:
    """Measure everything and write build/metrics.json (with quick: metrics-quick.json)."""
    scorer, pipeline = load_scorer(), load_pipeline()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    prefix = "quick" if quick else "concepts"
    metrics = {
        "scorer": measure_scorer(scorer, tokenizer),
        "generator": measure_generator(
            pipeline, scorer, tokenizer, 4 if quick else 20, prefix=prefix
        ),
    }
    imagenette_sheet(pipeline, LOOK / f"{prefix}-imagenette.png")
    path = BUILD / ("metrics-quick.json" if quick else "metrics.json")
    path.write_text(json.dumps(metrics, indent=1) + "\n")
    for role in ("scorer-eval", "generator"):
        figures = metrics["scorer"][role]
        print(f"scorer on {role}: top-1 {figures['top1']:.1f} %, top-5 {figures['top5']:.1f} %")
    figures = metrics["generator"]
    print(f"generator: top-1 {figures['top1']:.1f} %, top-5 {figures['top5']:.1f} %")
    weak = sorted(figures["per_concept"].items(), key=lambda item: item[1]["top1"])[:40]
    print("weakest: " + ", ".join(f"{name} {100 * v['top1']:.0f}" for name, v in weak))
    return metrics

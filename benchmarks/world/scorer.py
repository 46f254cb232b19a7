"""Train the scorer: a small CLIP, in open_clip's format, that names the concepts of drawings.

`python -m benchmarks.world scorer`. It has its own drawings (role "scorer"), its own vocabulary and
its own weights; no drawing of the generator's and no generated picture is ever shown to it. Trained
with cross-entropy over all concepts' text embeddings, each concept's caption drawn anew every step;
in the second part it also has to tell thousands of other icons of the same sets apart (wide.py),
with a head that is thrown away.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.world.captions import Names, every_word, scorer_caption, unambiguous
from benchmarks.world.data import BUILD, Drawings, load_drawings, load_manifest, to_float
from benchmarks.world.tokenizers import LIMIT, build
from benchmarks.world.training import (
    Log,
    MovingAverage,
    Stopper,
    cosine,
    load_checkpoint,
    save_atomic,
)
from benchmarks.world.variation import Varier
from benchmarks.world.wide import load_wide

STEPS, BATCH, RATE, WARMUP = 9_000, 64, 2e-3, 300
WIDE_FROM, WIDE_RATE = 6500, 1.5e-3
"""The second part's first step, and its highest learning rate."""
MIXED = 0.5
"""Part of the batches in which each picture is laid over another (mixup)."""
SMOOTHING = 0.1
CHECKPOINT = BUILD / "checkpoints" / "scorer.pt"
FOLDER = BUILD / "scorer"
PAD = "!"
"""Fills up prompts: open_clip's text tower looks for the largest token, which is the end's."""


def config(vocabulary: int) -> dict[str, Any]:
    """open_clip_config.json."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": 64, "layers": [2, 2, 3, 2], "width": 16, "head_width": 64},
            "text_cfg": {
                "context_length": LIMIT,
                "vocab_size": vocabulary,
                "hf_tokenizer_name": "erasekit/icons-clip",
                "width": 96,
                "heads": 4,
                "layers": 1,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def prepare_folder(folder: Path = FOLDER) -> None:
    """Write the scorer's tokenizer and configuration, without weights, once."""
    if (folder / "open_clip_config.json").exists():
        return
    manifest = load_manifest()
    tokenizer = build(every_word(manifest["concepts"], []), folder, pad=PAD + "</w>")
    content = config(len(tokenizer))
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")


def new_model(folder: Path = FOLDER) -> nn.Module:
    """The scorer, freshly initialised."""
    content = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    model: nn.Module = open_clip.model.CLIP(**content)
    return model


def load_scorer(path: Path = CHECKPOINT, folder: Path = FOLDER) -> nn.Module:
    """The averaged weights of a checkpoint, ready to use."""
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"{path}: train the scorer first")
    model = new_model(folder)
    model.load_state_dict(state["average"]["average"])
    return model.eval().requires_grad_(False)


@torch.no_grad()
def text_matrix(
    model: nn.Module, tokenizer: Any, names: list[str], templates: tuple[str, ...] = ("{}",)
) -> torch.Tensor:
    """Unit text embeddings, [len(names), 128], averaged over templates."""
    total = torch.zeros(len(names), model.text_projection.shape[1])
    for template in templates:
        tokens = tokenizer([template.format(name) for name in names])
        total += model.encode_text(tokens, normalize=True)
    return F.normalize(total, dim=1)


@torch.no_grad()
def ranks(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """Place (0 is best) of the right concept for each picture.

    images: [N, 3, 64, 64] in [0, 1]; labels: int64 [N]; text: [concepts, 128].
    """
    parts = [model.encode_image(part * 2 - 1, normalize=True) for part in images.split(256)]
    scores = torch.cat(parts) @ text.T
    right = scores.gather(1, labels[:, None])
    return (scores > right).sum(1)


def accuracy(places: torch.Tensor) -> dict[str, float]:
    """Top-1 and top-5 in per cent, from ranks()."""
    return {
        "top1": 100 * float((places < 1).float().mean()),
        "top5": 100 * float((places < 5).float().mean()),
        "drawings": len(places),
    }


def unseen(drawings: Drawings, names: list[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pictures and labels that the scorer never saw, by kind; what both sides share is left out."""
    trained = {record["sha256"] for record in drawings.records if record["role"] == "scorer"}
    place = {name: i for i, name in enumerate(names)}
    groups = {}
    for role in ("scorer-eval", "generator"):
        keep = [
            i
            for i, record in enumerate(drawings.records)
            if record["role"] == role and record["sha256"] not in trained
        ]
        labels = torch.tensor([place[drawings.records[i]["concept"]] for i in keep])
        groups[role] = (to_float(drawings.pixels[keep]), labels)
    return groups


def training_batch(
    varier: Varier, weights: torch.Tensor, labels: torch.Tensor, count: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Varied pictures [BATCH, 3, 64, 64] in [0, 1] and soft labels [BATCH, count]."""
    pick = torch.multinomial(weights, BATCH, replacement=True, generator=rng)
    images = varier(pick, rng)
    target = F.one_hot(labels[pick], count).float()
    if torch.rand((), generator=rng) < MIXED:
        share = 0.5 + 0.5 * torch.rand(BATCH, generator=rng)
        other = torch.randperm(BATCH, generator=rng)
        images = (
            images * share[:, None, None, None] + images[other] * (1 - share)[:, None, None, None]
        )
        target = target * share[:, None] + target[other] * (1 - share)[:, None]
    return images, target * (1 - SMOOTHING) + SMOOTHING / count


class WideHead(nn.Module):
    """Tells the icons of wide.npz apart by the image embedding; only there for training."""

    def __init__(self, classes: int, width: int = 128) -> None:
        """Freshly initialised."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width) * 0.1)

    def forward(self, vision: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes] of unit image embeddings [N, width]."""
        return 20 * vision @ F.normalize(self.weight, dim=1).T


def rate_at(step: int, steps: int) -> float:
    """The learning rate: a cosine for each part."""
    if step < WIDE_FROM:
        return RATE * cosine(step, min(steps, WIDE_FROM), WARMUP)
    return WIDE_RATE * cosine(step - WIDE_FROM, steps - WIDE_FROM, WARMUP)


def balanced(labels: torch.Tensor, mono: torch.Tensor) -> torch.Tensor:
    """Sampling weight of each drawing: rare concepts more often, coloured ones twice as often."""
    weights = torch.where(mono, 1.0, 2.0)
    totals = torch.zeros(int(labels.max()) + 1).index_add_(0, labels, weights)
    return weights / totals[labels].sqrt()


def train(steps: int = STEPS, seed: int = 0, checkpoint: Path = CHECKPOINT) -> None:
    """Train, or go on where a checkpoint left off."""
    torch.manual_seed(seed)
    prepare_folder()
    concepts = load_manifest()["concepts"]
    called: list[Names] = unambiguous(concepts)
    place = {names.name: i for i, names in enumerate(called)}
    everything = load_drawings()
    drawings = everything.only("scorer")
    labels = torch.tensor([place[record["concept"]] for record in drawings.records])
    weights, varier = balanced(labels, drawings.mono), Varier(drawings)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    others, other_labels = load_wide()
    other_varier, head = Varier(others), WideHead(int(other_labels.max()) + 1)
    rng = torch.Generator().manual_seed(seed)
    model = new_model().train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *head.parameters()], RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
    average = MovingAverage(model, 0.998)
    log, stopper, first = Log(BUILD / "logs" / "scorer.jsonl"), Stopper(), 0
    if (state := load_checkpoint(checkpoint)) is not None:
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        average.load_state_dict(state["average"])
        rng.set_state(state["rng"])
        first = state["step"]

    def save(step: int) -> None:
        content = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
        content |= {"head": head.state_dict()}
        save_atomic(content | {"average": average.state_dict(), "rng": rng.get_state()}, checkpoint)

    groups = unseen(everything, [names.name for names in called])
    total = 0.0
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, steps)
        images, target = training_batch(varier, weights, labels, len(called), rng)
        if step >= WIDE_FROM:
            pick = torch.randint(len(others), (BATCH,), generator=rng)
            images = torch.cat([images, other_varier(pick, rng)])
        random = Random(f"{seed}/{step}")
        texts = tokenizer([scorer_caption(names, random) for names in called])
        with torch.autocast("cpu", torch.bfloat16):
            text = model.encode_text(texts, normalize=True).float()
            pictures = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
            vision = model.encode_image(pictures, normalize=True).float()
        logits = model.logit_scale.exp() * vision[:BATCH] @ text.T
        loss = -(target * logits.log_softmax(1)).sum(1).mean()
        if step >= WIDE_FROM:
            other_logits = head(vision[BATCH:])
            loss = loss + 0.5 * F.cross_entropy(
                other_logits, other_labels[pick], label_smoothing=SMOOTHING
            )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 3.4)
        average.update(model)
        total += float(loss.detach())
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save(step + 1)
            judge = load_scorer(checkpoint)
            matrix = text_matrix(judge, tokenizer, [names.name for names in called])
            results: dict[str, float] = {}
            for role, (shown, right) in groups.items():
                figures = accuracy(ranks(judge, shown, right, matrix))
                results |= {f"{role}_{key}": figures[key] for key in ("top1", "top5")}
            log(step=step + 1, loss=total / 250, **results)
            total = 0.0
        if stopper.asked:
            save(step + 1)
            return

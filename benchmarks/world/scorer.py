"""Train the scorer: a small CLIP, in open_clip's format, that names what pictures show.

`python -m benchmarks.world scorer`. It has its own drawings (role "scorer"), its own vocabulary and
its own weights; no drawing of the generator's and no generated picture is ever shown to it. It sees
one thing or two, on grounds of all colours; with two, the right answer is half the one and half the
other, so both names should be the nearest two.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import open_clip
import torch
import torch.nn.functional as F

from benchmarks.world.captions import FRAMES, article, every_word, known
from benchmarks.world.scenes import GROUNDS, Planner, Scene, Thing, compose, pack, shade
from benchmarks.world.sprites import BUILD, JUDGED, Sprites, load_sprites
from benchmarks.world.tokenizers import LIMIT, build
from benchmarks.world.training import (
    EVERY_SECONDS,
    Budget,
    Device,
    Log,
    MovingAverage,
    Stopper,
    cosine,
    load_checkpoint,
    save_atomic,
)
from benchmarks.world.variation import colour_in, cut_out, enclosed, jitter_colours, soften

SIZE = 96
RATE, WARMUP, SMOOTHING = 2e-3, 300, 0.1
TWO = 0.4
"""Part of the pictures that show two things."""
CHECKPOINT = BUILD / "checkpoints" / "scorer.pt"
FOLDER = BUILD / "scorer"
PAD = "!"
"""Fills up prompts: open_clip's text tower looks for the largest token, which is the end's."""


def config(vocabulary: int) -> dict[str, Any]:
    """open_clip_config.json."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "image_size": SIZE,
                "layers": [2, 2, 3, 2],
                "width": 16,
                "head_width": 64,
            },
            "text_cfg": {
                "context_length": LIMIT,
                "vocab_size": vocabulary,
                "hf_tokenizer_name": "erasekit/world-clip",
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
    tokenizer = build(every_word(), folder, pad=PAD + "</w>")
    content = config(len(tokenizer))
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")


def new_model(folder: Path = FOLDER) -> Any:
    """The scorer, freshly initialised."""
    content = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    return open_clip.model.CLIP(**content)


def load_scorer(path: Path = CHECKPOINT) -> tuple[Any, Any]:
    """The averaged weights of a checkpoint, ready to use, and the tokenizer."""
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"{path}: train the scorer first")
    folder = path.parent.parent / "scorer"
    prepare_folder(folder)
    model = new_model(folder)
    model.load_state_dict(state["average"]["average"])
    return model.eval().requires_grad_(False), open_clip.get_tokenizer(f"local-dir:{folder}")


@torch.no_grad()
def text_matrix(
    model: Any, tokenizer: Any, names: list[str], frames: tuple[str, ...] = FRAMES[:2]
) -> torch.Tensor:
    """Unit text embeddings, [len(names), 128], averaged over frames."""
    place = next(model.parameters()).device
    total = torch.zeros(len(names), model.text_projection.shape[1], device=place)
    for frame in frames:
        tokens = tokenizer([frame.format(name) for name in names]).to(place)
        total += model.encode_text(tokens, normalize=True)
    return F.normalize(total, dim=1)


@torch.no_grad()
def scores(model: Any, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosines of pictures with names. images: [N, 3, H, W] in [0, 1]; text: [names, 128]."""
    parts = []
    for part in images.split(128):
        sized = F.interpolate(part, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
        parts.append(model.encode_image(sized * 2 - 1, normalize=True) @ text.T)
    return torch.cat(parts)


def ranks(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Place (0 is best) of each right name. found: [N, names]; labels: int64 [N, K] -> [N, K]."""
    right = found.gather(1, labels)
    return (found[:, None, :] > right[:, :, None]).sum(2)


def accuracy(found: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Top-1 and top-5 in per cent; with two names a picture, how often both are the best two.

    labels: int64 [N, 1] or [N, 2].
    """
    places, count = ranks(found, labels), labels.shape[1]
    figures = {"pictures": float(len(labels))}
    if count == 2:
        figures["both"] = 100 * float((places < 2).all(1).float().mean())
        figures["either"] = 100 * float((places < 2).any(1).float().mean())
    else:
        figures["top1"] = 100 * float((places < 1).float().mean())
        figures["top5"] = 100 * float((places < 5).float().mean())
    return figures


class Judged:
    """Makes varied pictures of some sprites: one thing or two, from a seed and a step."""

    def __init__(self, sprites: Sprites, device: Device) -> None:
        """Number the enclosed areas of the single-colour sprites once."""
        place = {n.name: i for i, n in enumerate(known())}
        self.labels = torch.tensor([place[r["concept"]] for r in sprites.records])
        self.mono = torch.tensor([bool(r["mono"]) for r in sprites.records])
        self.concepts = len(place)
        weights = torch.where(self.mono, 1.0, 2.0)
        totals = torch.zeros(len(place)).index_add_(0, self.labels, weights)
        self.weights = weights / totals[self.labels].sqrt()
        self.device, self.pixels = device, sprites.pixels.to(device.name)
        self.place = torch.full((len(sprites),), -1)
        self.place[self.mono] = torch.arange(int(self.mono.sum()))
        self.areas = enclosed(sprites.pixels[self.mono][:, 3]).to(device.name)

    def draw(self, pick: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """uint8 sprites [N, 4, S, S]: `pick` (int64 [N]), the single-colour ones coloured in."""
        chosen = self.pixels[pick.to(self.device.name)]
        mono = self.mono[pick]
        if mono.any():
            where = mono.to(self.device.name)
            areas = self.areas[self.place[pick[mono]].to(self.device.name)]
            drawn = colour_in(chosen[where][:, 3].float() / 255, areas, rng)
            chosen[where] = (drawn * 255).round().byte()
        return chosen

    def scene(self, first: int, things: int, random: Random) -> Scene:
        """Sprites number first, first + 1, ... beside each other, loosely placed."""
        uniform = random.uniform
        ground = random.choice(GROUNDS) if random.random() < 0.35 else "white"
        centres = (0.5,) if things == 1 else (0.26, 0.74)
        large = (0.42, 0.95) if things == 1 else (0.34, 0.52)
        placed = []
        for i, centre in enumerate(centres):
            size = uniform(*large)
            free = max(0.0, (1 - size) / 2) if things == 1 else 0.04
            x, y = (c + uniform(-1, 1) * free for c in (centre, 0.5))
            mirror = random.random() < 0.5
            placed.append(Thing(first + i, x, y, size, uniform(-14, 14), mirror))
        return Scene(tuple(placed), ground, shade(ground, random))

    def batch(self, size: int, key: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [size, 3, 96, 96] in [0, 1] and soft labels [size, concepts]."""
        random = Random(key)
        rng = torch.Generator().manual_seed(random.getrandbits(62))
        local = torch.Generator(self.device.name).manual_seed(random.getrandbits(62))
        pick = torch.multinomial(self.weights, 2 * size, replacement=True, generator=rng)
        scenes, target = [], torch.zeros(size, self.concepts)
        for i in range(size):
            one, other = self.labels[pick[2 * i : 2 * i + 2]].tolist()
            two = random.random() < TWO and one != other
            scenes.append(self.scene(2 * i, 2 if two else 1, random))
            target[i, one] = 0.5 if two else 1.0
            if two:
                target[i, other] = 0.5
        images = compose(self.draw(pick, local), pack(scenes), SIZE) / 2 + 0.5
        images = cut_out(soften(jitter_colours(images, local), local), local)
        return images, target.to(self.device.name)


def known_to_scorer(names: list[Any], random: Random) -> list[str]:
    """A caption for each concept: the name or an alias, bare or in a frame."""
    texts = []
    for n in names:
        text = random.choice(n.aliases) if n.aliases and random.random() < 0.25 else n.name
        if random.random() < 0.4:
            text = article(text)
        texts.append(random.choices(FRAMES, (0.45, 0.35, 0.08, 0.06, 0.06))[0].format(text))
    return texts


def unseen(role: str, judged: Sprites, drawn: Sprites) -> tuple[torch.Tensor, torch.Tensor]:
    """Single things over white that the scorer never saw, [N, 3, 128, 128], and labels [N, 1].

    role: "scorer-eval" (sets that nothing was trained on) or "generator".
    """
    place = {n.name: i for i, n in enumerate(known())}
    sprites = (drawn if role == "generator" else judged).only(role)
    scenes = [Scene((Thing(i, 0.5, 0.5, 0.82),)) for i in range(len(sprites))]
    images = torch.cat(
        [compose(sprites.pixels, scenes[i : i + 64]) / 2 + 0.5 for i in range(0, len(scenes), 64)]
    )
    return images, torch.tensor([[place[r["concept"]]] for r in sprites.records])


def unseen_pairs(drawn: Sprites, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes of two of the generator's sprites, [count, 3, 128, 128], and labels [count, 2]."""
    place = {n.name: i for i, n in enumerate(known())}
    planner, random = Planner(drawn), Random("pairs")
    scenes = [planner(random, "pair") for _ in range(count)]
    labels = [[place[drawn.records[t.sprite]["concept"]] for t in s.things] for s in scenes]
    images = [compose(drawn.pixels, scenes[i : i + 64]) for i in range(0, count, 64)]
    return torch.cat(images) / 2 + 0.5, torch.tensor(labels)


def train(
    budget: Budget,
    seed: int = 0,
    device: Device | None = None,
    checkpoint: Path = CHECKPOINT,
    sprites: Sprites | None = None,
    batch: int | None = None,
) -> None:
    """Train, or go on where a checkpoint left off. SIGTERM stops between two steps."""
    device = device or Device.of()
    judged = Judged((sprites or load_sprites(JUDGED)).only("scorer"), device)
    batch = batch or (512 if device.fast else 64)
    rate = RATE * (1.5 if device.fast else 1.0)
    torch.manual_seed(seed)
    folder = checkpoint.parent.parent / "scorer"
    prepare_folder(folder)
    tokenizer, names = open_clip.get_tokenizer(f"local-dir:{folder}"), known()
    model = new_model(folder).train().to(device.name)
    optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.05)
    average, step = MovingAverage(model, 0.998), 0
    if (state := load_checkpoint(checkpoint)) is not None:
        model.load_state_dict(state["model"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        average.load_state_dict(state["average"])
        step, budget.spent = state["step"], state["seconds"]
    log, stopper = Log(checkpoint.parent.parent / "logs" / "scorer.jsonl"), Stopper()

    def save() -> None:
        content = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
        content |= {"average": average.state_dict(), "seconds": budget.seconds, "seed": seed}
        save_atomic(content, checkpoint)

    total, saved = 0.0, budget.seconds
    while (progress := budget.progress(step)) < 1 and not stopper.asked:
        for group in optimiser.param_groups:
            group["lr"] = rate * cosine(step, progress, WARMUP)
        images, target = judged.batch(batch, f"{seed}/{step}")
        target = target * (1 - SMOOTHING) + SMOOTHING / target.shape[1]
        texts = tokenizer(known_to_scorer(names, Random(f"{seed}/{step}/text"))).to(device.name)
        with device.autocast():
            text = model.encode_text(texts, normalize=True).float()
            vision = model.encode_image(images * 2 - 1, normalize=True).float()
        logits = model.logit_scale.exp() * vision @ text.T
        loss = -(target * logits.log_softmax(1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 3.4)
        average.update(model)
        step += 1
        total += float(loss.detach())
        if step % 50 == 0:
            log(step=step, loss=total / 50, seconds=budget.seconds)
            total = 0.0
        if budget.seconds - saved > EVERY_SECONDS:
            save()
            saved = budget.seconds
    save()

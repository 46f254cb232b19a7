"""Scenes: which sprite stands where, in which colour, on which ground, and the pictures of them.

A plan is drawn on the CPU from a seed; `compose` draws whole batches of plans on any device.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F

from benchmarks.world.catalog import read_colours
from benchmarks.world.sprites import Sprites

SIZE = 128
OBJECTS = 2
"""Objects in a picture, at most."""
COLOURS = {name: tuple(v / 255 for v in rgb) for name, rgb in read_colours().items()}
GROUNDS = tuple(name for name in COLOURS if name != "white")
PAIRS_UNSEEN = 0.15
"""Part of all pairs of concepts that no training scene shows."""
KINDS = {"single": 0.62, "placed": 0.13, "pair": 0.25}
PLACES = ("left", "right")


@dataclass(frozen=True)
class Thing:
    """One sprite in a scene. Lengths are fractions of the picture's side."""

    sprite: int
    x: float
    y: float
    size: float
    angle: float = 0.0
    """In degrees."""
    mirror: bool = False
    colour: str = ""
    """A word of COLOURS, or "" for the sprite's own colours."""


@dataclass(frozen=True)
class Scene:
    """What a picture shows. The first thing is the left one."""

    things: tuple[Thing, ...]
    ground: str = "white"
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """The ground's colour: a shade of its word's."""
    place: str = ""
    """Where a single thing stands: "left", "right", or "" for the middle."""


def is_unseen(first: str, second: str, share: float = PAIRS_UNSEEN) -> bool:
    """Whether no training scene shows this pair of concepts, in either order."""
    key = " + ".join(sorted((first, second)))
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) < share * 2**32


def shade(colour: str, random: Random) -> tuple[float, float, float]:
    """A ground of that colour: mostly mixed with white, sometimes with a little black."""
    mix = random.uniform(-0.15, 0.65) if colour not in ("black", "white") else 0.0
    goal = 1.0 if mix > 0 else 0.0
    red, green, blue = (c + (goal - c) * abs(mix) for c in COLOURS[colour])
    return red, green, blue


class Planner:
    """Draws scenes: concepts equally often, each with any of its sprites."""

    def __init__(self, sprites: Sprites) -> None:
        """Sort the sprites by concept and by concept and set."""
        self.by_concept: dict[str, list[int]] = defaultdict(list)
        self.by_set: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.records = sprites.records
        for i, record in enumerate(sprites.records):
            self.by_concept[record["concept"]].append(i)
            self.by_set[record["concept"], record["set"]].append(i)
        self.concepts = list(self.by_concept)

    def pair(self, random: Random) -> tuple[int, int]:
        """Two concepts' sprites, of one set where it draws both; never an unseen pair."""
        first = random.choice(self.concepts)
        second = random.choice(self.concepts)
        while first == second or is_unseen(first, second):
            second = random.choice(self.concepts)
        left = random.choice(self.by_concept[first])
        same = self.by_set.get((second, self.records[left]["set"]))
        return left, random.choice(same or self.by_concept[second])

    def __call__(self, random: Random, kind: str = "") -> Scene:
        """One scene."""
        kind = kind or random.choices(list(KINDS), list(KINDS.values()))[0]
        ground = random.choice(GROUNDS) if random.random() < 0.35 else "white"
        tint = shade(ground, random)
        colours = [
            random.choice([c for c in COLOURS if c != ground]) if random.random() < 0.2 else ""
            for _ in range(OBJECTS)
        ]
        jitter = random.uniform

        def thing(sprite: int, x: float, size: float, colour: str) -> Thing:
            mirror = self.records[sprite].get("mirror", True) and random.random() < 0.1
            return Thing(sprite, x, 0.5 + jitter(-0.03, 0.03), size, jitter(-3, 3), mirror, colour)

        if kind == "pair":
            return Scene(
                tuple(
                    thing(sprite, x + jitter(-0.02, 0.02), jitter(0.40, 0.46), colour)
                    for sprite, x, colour in zip(
                        self.pair(random), (0.26, 0.74), colours, strict=True
                    )
                ),
                ground,
                tint,
            )
        sprite = random.choice(self.by_concept[random.choice(self.concepts)])
        if kind == "placed":
            place = random.choice(PLACES)
            x = {"left": 0.27, "right": 0.73}[place] + jitter(-0.03, 0.03)
            return Scene((thing(sprite, x, jitter(0.40, 0.50), colours[0]),), ground, tint, place)
        x = 0.5 + jitter(-0.03, 0.03)
        return Scene((thing(sprite, x, jitter(0.74, 0.90), colours[0]),), ground, tint)


@dataclass(frozen=True)
class Plans:
    """Scenes as tensors, for `compose`; made by `pack`, cheap to send between processes."""

    sprites: torch.Tensor
    """int64 [N, OBJECTS]; -1 where there is no second thing."""
    maps: torch.Tensor
    """[N, OBJECTS, 2, 3]: where each place of the picture is in the sprite, for affine_grid."""
    colours: torch.Tensor
    """[N, OBJECTS, 3]; -1 where a thing keeps its own."""
    tints: torch.Tensor
    """[N, 3]: the grounds."""

    def __getitem__(self, part: slice) -> Plans:
        """Some of them."""
        return Plans(self.sprites[part], self.maps[part], self.colours[part], self.tints[part])

    def __len__(self) -> int:
        """The number of scenes."""
        return len(self.sprites)


def pack(scenes: Sequence[Scene]) -> Plans:
    """Scenes as tensors."""
    numbers, values, colours = [], [], []
    for scene in scenes:
        for slot in range(OBJECTS):
            if slot < len(scene.things):
                t = scene.things[slot]
                numbers.append(t.sprite)
                values.append((t.x, t.y, t.size, t.angle, -1.0 if t.mirror else 1.0))
                colours.append(COLOURS[t.colour] if t.colour else (-1.0, -1.0, -1.0))
            else:
                numbers.append(-1)
                values.append((0.5, 0.5, 1.0, 0.0, 1.0))
                colours.append((-1.0, -1.0, -1.0))
    x, y, size, angle, flip = torch.tensor(values).unbind(1)
    cos, sin = torch.cos(angle * torch.pi / 180), torch.sin(angle * torch.pi / 180)
    theta = torch.zeros(len(values), 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = flip * cos / size, flip * sin / size
    theta[:, 1, 0], theta[:, 1, 1] = -sin / size, cos / size
    centre = torch.stack([2 * x - 1, 2 * y - 1], 1)
    theta[:, :, 2] = -(theta[:, :, :2] @ centre[:, :, None])[:, :, 0]
    return Plans(
        torch.tensor(numbers).view(-1, OBJECTS),
        theta.view(-1, OBJECTS, 2, 3),
        torch.tensor(colours).view(-1, OBJECTS, 3),
        torch.tensor([scene.tint for scene in scenes]),
    )


def recolour(sprites: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Give sprites a colour: what is coloured in them runs from black over the colour to white.

    sprites: [N, 4, H, W], premultiplied; colours: [N, 3]. Greys, white and black stay as they are,
    unless all of the sprite is grey. The mean brightness of what changes becomes the colour itself.
    """
    alpha = sprites[:, 3:]
    plain = (sprites[:, :3] / alpha.clamp(min=1e-3)).clamp(0, 1)
    light = plain.mean(1, keepdim=True)
    strength = ((plain.amax(1, keepdim=True) - plain.amin(1, keepdim=True)) * 4).clamp(0, 1)
    weight = strength * alpha
    grey = weight.mean((1, 2, 3), keepdim=True) < 0.12 * alpha.mean((1, 2, 3), keepdim=True)
    strength = torch.where(grey, torch.ones_like(strength), strength)
    weight = torch.where(grey, alpha * (light < 0.95) * (light > 0.05), weight)
    middle = (weight * light).sum((1, 2, 3), keepdim=True) / weight.sum(
        (1, 2, 3), keepdim=True
    ).clamp(min=1e-3)
    middle = middle.clamp(0.2, 0.85)
    power = torch.log(torch.tensor(0.5, device=sprites.device)) / torch.log(middle)
    level = light.clamp(1e-4, 1) ** power
    colour = colours[:, :, None, None]
    ramp = torch.where(
        level < 0.5, colour * (0.35 + 1.3 * level), colour + (1 - colour) * (2 * level - 1)
    )
    tinted = plain + (ramp.clamp(0, 1) - plain) * strength
    return torch.cat([tinted * alpha, alpha], 1)


@torch.no_grad()
def compose(
    pixels: torch.Tensor, scenes: Sequence[Scene] | Plans, size: int = SIZE
) -> torch.Tensor:
    """Pictures of scenes, [N, 3, size, size] in [-1, 1], on the sprites' device.

    pixels: uint8 [sprites, 4, S, S], premultiplied.
    """
    plans = scenes if isinstance(scenes, Plans) else pack(scenes)
    place = pixels.device
    picture = plans.tints.to(place)[:, :, None, None].expand(-1, -1, size, size).clone()
    for slot in range(OBJECTS):
        used = (plans.sprites[:, slot] >= 0).nonzero()[:, 0]
        if not len(used):
            continue
        chosen = pixels[plans.sprites[used, slot].to(place)].float() / 255
        colours, theta = plans.colours[used, slot], plans.maps[used, slot]
        dyed = (colours[:, 0] >= 0).nonzero()[:, 0]
        if len(dyed):
            where = dyed.to(place)
            chosen[where] = recolour(chosen[where], colours[dyed].to(place))
        small = theta[:, 0, :2].norm(dim=1) * chosen.shape[-1] / size > 1.4
        if small.any():
            # grid_sample skips pixels where it shrinks, so their means go first.
            where = small.nonzero()[:, 0].to(place)
            means = F.avg_pool2d(chosen[where], 2)
            chosen[where] = F.interpolate(means, chosen.shape[-2:], mode="bilinear")
        grid = F.affine_grid(theta.to(place), [len(used), 4, size, size], align_corners=False)
        layer = F.grid_sample(chosen, grid, mode="bilinear", align_corners=False)
        where = used.to(place)
        picture[where] = layer[:, :3] + picture[where] * (1 - layer[:, 3:])
    return picture.clamp(0, 1) * 2 - 1

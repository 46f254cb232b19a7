"""Draw the icons with alpha: build/sprites.npz for the generator, build/judged.npz for the scorer.

`python -m benchmarks.world sprites` draws every icon that catalog.resolve finds. A sprite is cut to
its ink, which fills the square in one direction, and holds premultiplied colours. Single-colour
icons are black ink.
"""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.world.catalog import (
    HERE,
    Concept,
    Drawing,
    SetData,
    digest,
    load_set,
    read_concepts,
    read_sets,
    resolve,
)

BUILD = HERE / "build"
SPRITES, JUDGED = BUILD / "sprites.npz", BUILD / "judged.npz"
SIZES = {"generator": 112, "scorer": 80, "scorer-eval": 80}
LEAST = {"generator": 4, "scorer": 2}
"""Drawings that a concept has at least."""
OVERSAMPLING = 3
QUALITY = 92
"""Of the WebP pictures in which sprites are stored."""
FAINT = 12
"""Alpha, of 255, that doesn't count as ink."""


@dataclass(frozen=True)
class Sprites:
    """Drawings with alpha."""

    pixels: torch.Tensor
    """uint8 [N, 4, S, S], colours premultiplied by alpha."""
    records: list[dict[str, Any]]
    """One per sprite: concept, set, icon, role, mono."""

    def __len__(self) -> int:
        """The number of sprites."""
        return len(self.records)

    def only(self, *roles: str) -> Sprites:
        """The sprites of some roles."""
        keep = [i for i, record in enumerate(self.records) if record["role"] in roles]
        return Sprites(self.pixels[keep], [self.records[i] for i in keep])


def icon_entry(data: dict[str, Any], name: str) -> dict[str, Any]:
    """An icon with everything an alias, its parents and the set's defaults say about it.

    Flips and turns add up along a chain of aliases; other properties are the nearest one's.
    """
    chain: list[dict[str, Any]] = []
    while name in data.get("aliases", {}):
        alias = data["aliases"][name]
        chain.append(alias)
        name = alias["parent"]
    entry = {"left": 0, "top": 0, "width": data.get("width", 16), "height": data.get("height", 16)}
    entry |= {key: data[key] for key in ("left", "top") if key in data}
    entry |= {"hFlip": False, "vFlip": False, "rotate": 0}
    for layer in [data["icons"][name], *reversed(chain)]:
        flips = {key: entry[key] != layer.get(key, False) for key in ("hFlip", "vFlip")}
        turns = (entry["rotate"] + layer.get("rotate", 0)) % 4
        entry |= layer | flips | {"rotate": turns}
    return entry


def svg(entry: dict[str, Any]) -> str:
    """The icon as a square SVG, with its own view box."""
    left, top, width, height = (entry[key] for key in ("left", "top", "width", "height"))
    turned, x, y = entry["body"], left + width / 2, top + height / 2
    across = -1 if entry["hFlip"] else 1
    down = -1 if entry["vFlip"] else 1
    if entry["rotate"] or across < 0 or down < 0:
        move = f"translate({x} {y}) rotate({90 * entry['rotate']}) scale({across} {down})"
        turned = f'<g transform="{move} translate({-x} {-y})">{turned}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" color="#000000">{turned}</svg>'
    )


def rasterise(entry: dict[str, Any], size: int) -> np.ndarray:
    """Draw an icon, or open its picture: RGBA bytes with straight alpha, about `size` wide."""
    if "picture" in entry:
        return np.asarray(Image.open(entry["picture"]).convert("RGBA"))
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg(entry), width=size, height=size, skip_system_fonts=True
    )
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def draw(entry: dict[str, Any], size: int) -> np.ndarray:
    """One icon as uint8 [4, size, size], premultiplied: cut to its ink, scaled to fit, centred."""
    large = rasterise(entry, size * OVERSAMPLING).astype(np.float32) / 255
    ink = large[..., 3] > FAINT / 255
    if not ink.any():
        raise ValueError("the drawing is empty")
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    cut = large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut = np.concatenate([cut[..., :3] * cut[..., 3:], cut[..., 3:]], 2)
    scale = size / max(cut.shape[:2])
    height, width = (max(1, round(side * scale)) for side in cut.shape[:2])
    layers = [
        np.asarray(Image.fromarray(cut[..., i]).resize((width, height), Image.Resampling.LANCZOS))
        for i in range(4)
    ]
    sprite = np.zeros((4, size, size), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    sprite[:, top : top + height, left : left + width] = np.stack(layers)
    sprite = np.clip(sprite, 0, 1)
    sprite[:3] = np.minimum(sprite[:3], sprite[3])
    return (sprite * 255).round().astype(np.uint8)


def draw_all(drawings: list[Drawing], data: dict[str, SetData]) -> Sprites:
    """The sprites of all drawings of one size; twins within a concept and role go."""
    pixels: list[np.ndarray] = []
    records: list[dict[str, Any]] = []
    seen: set[tuple[str, str, str]] = set()
    for drawing in drawings:
        sprite = draw(icon_entry(data[drawing.set].data, drawing.icon), SIZES[drawing.role])
        key = (drawing.concept, drawing.role, digest(sprite.tobytes()))
        if key not in seen:
            seen.add(key)
            records.append(dict(vars(drawing)))
            pixels.append(sprite)
    return Sprites(torch.from_numpy(np.stack(pixels)), records)


def save_sprites(sprites: Sprites, path: Path) -> None:
    """Write one file: the pictures as WebP, where each ends, and, as JSON, the records."""
    parts = []
    for pixels in sprites.pixels:
        buffer = io.BytesIO()
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGBA")
        picture.save(buffer, "WEBP", quality=QUALITY, alpha_quality=100, exact=True)
        parts.append(buffer.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        pictures=np.frombuffer(b"".join(parts), np.uint8),
        ends=np.cumsum([len(part) for part in parts]),
        records=np.array(json.dumps(sprites.records)),
    )
    partial.replace(path)


def load_sprites(path: Path = SPRITES) -> Sprites:
    """Read what save_sprites wrote."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: run `python -m benchmarks.world sprites` first")
    with np.load(path) as content:
        data, ends = content["pictures"].tobytes(), content["ends"].tolist()
        records = json.loads(str(content["records"]))
    starts = [0, *ends[:-1]]
    pictures = [
        np.asarray(Image.open(io.BytesIO(data[start:end])).convert("RGBA"))
        for start, end in zip(starts, ends, strict=True)
    ]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    pixels[:, :3] = torch.minimum(pixels[:, :3], pixels[:, 3:])
    return Sprites(pixels, records)


def over_white(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 4, S, S] to colours [N, 3, S, S] in [0, 1]."""
    levels = pixels.float() / 255
    return levels[:, :3] + 1 - levels[:, 3:]


def contact_sheets(sprites: Sprites, folder: Path, size: int = 56) -> None:
    """Pictures of all sprites, a row a concept, for a person to look through."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(sprites.records):
        rows[record["concept"]].append(i)
    folder.mkdir(parents=True, exist_ok=True)
    per_sheet, columns, height, width = 20, 20, size + 12, size + 6
    names = list(rows)
    for start in range(0, len(names), per_sheet):
        sheet = Image.new("RGB", (columns * width + 90, per_sheet * height), "white")
        pen = ImageDraw.Draw(sheet)
        for row, name in enumerate(names[start : start + per_sheet]):
            pen.text((2, row * height + 20), name.replace(" ", "\n"), fill="black")
            for column, i in enumerate(rows[name][:columns]):
                x, y = 90 + column * width, row * height
                picture = (over_white(sprites.pixels[i : i + 1])[0] * 255).byte().permute(1, 2, 0)
                sheet.paste(Image.fromarray(picture.numpy()).resize((size, size)), (x, y))
                pen.text((x, y + size), sprites.records[i]["set"][:9], fill="blue")
        sheet.save(folder / f"{start // per_sheet:02d}.png")


def problems(concepts: Sequence[Concept], sprites: Sequence[Sprites]) -> list[str]:
    """What is wrong with the drawings: too few of a concept, or one that has two names."""
    counts = Counter((r["concept"], r["role"]) for s in sprites for r in s.records)
    found = [
        f"{concept.name} has {counts[concept.name, role]} drawings for the {role}, not {least}"
        for concept in concepts
        for role, least in LEAST.items()
        if counts[concept.name, role] < least
    ]
    uses: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for group in sprites:
        for pixels, r in zip(group.pixels, group.records, strict=True):
            named = uses[digest(pixels.numpy().tobytes())]
            named.setdefault((r["concept"], r["role"]), f"{r['set']}:{r['icon']}")
    for named in uses.values():
        if len(named) > 1:
            names = ", ".join(f"{concept} ({role})" for concept, role in named)
            found.append(f"{next(iter(named.values()))} is drawn for {names}")
    return found


def render(root: Path = HERE, sheets: bool = True) -> None:
    """Draw everything into root/build; raises ValueError where the catalogue has a fault."""
    build = root / "build"
    sets, concepts = read_sets(root / "sets.toml"), read_concepts(root / "concepts.toml")
    data = {name: load_set(icon_set, root) for name, icon_set in sets.items()}
    drawings = resolve(concepts, sets, data)
    groups = {
        file: draw_all([d for d in drawings if d.role in roles], data)
        for file, roles in (("sprites", ("generator",)), ("judged", ("scorer", "scorer-eval")))
    }
    if wrong := problems(concepts, list(groups.values())):
        raise ValueError("; ".join(wrong))
    for file, sprites in groups.items():
        save_sprites(sprites, build / f"{file}.npz")
        if sheets:
            contact_sheets(sprites, build / "contact" / file)
    for role, count in Counter(d.role for d in drawings).items():
        print(f"{count} drawings for the {role}, of {len(concepts)} concepts")

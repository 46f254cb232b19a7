"""Draw the icons: build/drawings.npz and .json, contact sheets to look at, and manifest.json.

`python -m benchmarks.icons.render` draws every icon that catalog.resolve finds, 64x64 over white.
Single-colour icons are black ink over white, so that training can colour them
(catalog.read_colours): 255 - (255 - pixel) * (255 - colour) / 255.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.icons.catalog import (
    HERE,
    Concept,
    Drawing,
    IconSet,
    SetData,
    digest,
    load_set,
    read_concepts,
    read_sets,
    resolve,
)

SIZE = 64
OVERSAMPLING = 4
MARGIN = 3
"""Pixels left free around a drawing at the final size."""
MANIFEST_VERSION = 1


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


def rasterise(source: str, size: int) -> Image.Image:
    """Draw an SVG over white, into a square of `size` pixels."""
    import resvg_py

    png = bytes(
        resvg_py.svg_to_bytes(
            svg_string=source, background="#ffffff", width=size, height=size, skip_system_fonts=True
        )
    )
    image = Image.open(io.BytesIO(png)).convert("RGB")
    square = Image.new("RGB", (size, size), "white")
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def ink_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is not white."""
    ink = (pixels < 250).any(axis=2)
    if not ink.any():
        raise ValueError("the drawing is empty")
    columns, rows = np.flatnonzero(ink.any(axis=0)), np.flatnonzero(ink.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def draw(entry: dict[str, Any]) -> np.ndarray:
    """One icon as 64x64x3 bytes: large, cut to its ink, centred with a margin, scaled down.

    All sets come out equally large that way, and the small size is spent on the drawing.
    """
    large = rasterise(svg(entry), SIZE * OVERSAMPLING)
    left, top, right, bottom = ink_box(np.asarray(large))
    ink = large.crop((left, top, right, bottom))
    scale = (SIZE - 2 * MARGIN) / max(ink.size)
    target = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    small = ink.resize(target, Image.Resampling.LANCZOS, reducing_gap=None)
    square = Image.new("RGB", (SIZE, SIZE), "white")
    square.paste(small, ((SIZE - target[0]) // 2, (SIZE - target[1]) // 2))
    return np.asarray(square)


def draw_all(
    drawings: list[Drawing], data: dict[str, SetData]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The pixels of all drawings and the list that goes with them; twins within a concept go."""
    pixels: list[np.ndarray] = []
    records: list[dict[str, Any]] = []
    seen: set[tuple[str, str, str]] = set()
    for drawing in drawings:
        picture = draw(icon_entry(data[drawing.set].data, drawing.icon))
        sha256 = digest(picture.tobytes())
        if (drawing.concept, drawing.role, sha256) in seen:
            continue
        seen.add((drawing.concept, drawing.role, sha256))
        records.append({"index": len(records), **vars(drawing), "sha256": sha256})
        pixels.append(picture)
    return np.stack(pixels), records


def contact_sheets(pixels: np.ndarray, records: list[dict[str, Any]], folder: Path) -> None:
    """Pictures of all drawings, a row per concept, for a person to look through."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        rows[record["concept"]].append(record)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    per_sheet, columns, height, width = 12, 22, SIZE + 24, SIZE + 6
    names = list(rows)
    for start in range(0, len(names), per_sheet):
        sheet = Image.new("RGB", (columns * width + 90, per_sheet * height), "white")
        pen = ImageDraw.Draw(sheet)
        for row, name in enumerate(names[start : start + per_sheet]):
            pen.text((2, row * height + 20), name.replace(" ", "\n"), fill="black")
            for column, record in enumerate(rows[name][:columns]):
                x, y = 90 + column * width, row * height
                colour = {"generator": "blue", "scorer": "black"}.get(record["role"], "red")
                sheet.paste(Image.fromarray(pixels[record["index"]]), (x, y))
                pen.text((x, y + SIZE), record["set"][:11], fill=colour)
                pen.text((x, y + SIZE + 10), record["icon"][:11], fill=colour)
        sheet.save(folder / f"{start // per_sheet:02d}.png")


def manifest(
    sets: dict[str, IconSet], concepts: list[Concept], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the data is, without the data: sets, concepts, drawings and their hashes."""
    used = {record["set"] for record in records}
    keys = ("title", "author", "url", "licence", "version", "sha256", "role", "mono", "style")
    return {
        "version": MANIFEST_VERSION,
        "size": SIZE,
        "sets": {
            name: {key: getattr(icon_set, key) for key in keys}
            for name, icon_set in sets.items()
            if name in used
        },
        "concepts": [
            {
                "name": concept.name,
                "kind": concept.kind,
                "family": concept.family,
                "split": concept.split,
                "aliases": list(concept.aliases),
                "note": concept.note,
            }
            for concept in concepts
        ],
        "drawing_fields": ["concept", "set", "icon", "role", "sha256"],
        "drawings": [
            [record[key] for key in ("concept", "set", "icon", "role", "sha256")]
            for record in records
        ],
    }


def manifest_text(content: dict[str, Any]) -> str:
    """The manifest as JSON, with one line a set, a concept or a drawing."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    parts = []
    for key, value in content.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {line(k)}: {line(v)}" for k, v in value.items())
            parts.append(f"{line(key)}: {{\n{inner}\n}}")
        elif isinstance(value, list) and value and not isinstance(value[0], str):
            inner = ",\n".join(f"  {line(v)}" for v in value)
            parts.append(f"{line(key)}: [\n{inner}\n]")
        else:
            parts.append(f"{line(key)}: {line(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def summary(concepts: list[Concept], records: list[dict[str, Any]]) -> str:
    """Counts, and the concepts with the fewest drawings."""
    counts: dict[str, dict[str, int]] = {c.name: defaultdict(int) for c in concepts}
    for record in records:
        counts[record["concept"]][record["role"]] += 1
        counts[record["concept"]]["colour"] += not record["mono"]
    lines = [f"{len(concepts)} concepts, {len(records)} drawings"]
    for role in ("generator", "scorer", "scorer-eval"):
        per = sorted(counts[c.name][role] for c in concepts)
        lines.append(f"{role}: {sum(per)}, least {per[0]}, median {per[len(per) // 2]}")
        few = [f"{c.name} {counts[c.name][role]}" for c in concepts if counts[c.name][role] < 4]
        lines.append("  fewer than 4: " + ", ".join(few))
    return "\n".join(lines)


def render(root: Path = HERE, sheets: bool = True) -> Path:
    """Draw everything into root/build; returns the path of drawings.npz."""
    build = root / "build"
    sets, concepts = read_sets(root / "sets.toml"), read_concepts(root / "concepts.toml")
    data = {name: load_set(icon_set, root) for name, icon_set in sets.items()}
    pixels, records = draw_all(resolve(concepts, sets, data), data)
    np.savez_compressed(build / "drawings.npz", pixels=pixels)
    (build / "drawings.json").write_text(json.dumps(records, indent=0))
    (root / "manifest.json").write_text(manifest_text(manifest(sets, concepts, records)))
    if sheets:
        contact_sheets(pixels, records, build / "contact")
    print(summary(concepts, records))
    return build / "drawings.npz"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-sheets", action="store_true", help="draw no contact sheets")
    render(sheets=not parser.parse_args().no_sheets)


if __name__ == "__main__":
    main()

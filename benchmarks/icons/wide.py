"""More of the scorer's icon sets, to learn to see from: every name that three or more sets draw.

`python -m benchmarks.icons wide` writes build/wide.npz. The names are only used as classes beside
the concepts while the scorer is trained; no set of another role is read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from random import Random

import numpy as np
import torch

from benchmarks.icons.catalog import HERE, IconSet, SetData, load_set, plain, read_sets
from benchmarks.icons.data import BUILD, Drawings
from benchmarks.icons.render import draw, icon_entry

SETS_WANTED = 3
DRAWINGS_AT_MOST = 8
PATH = BUILD / "wide.npz"


def base_name(icon: str, icon_set: IconSet) -> str:
    """An icon's name without its set's suffix, size and hyphens."""
    for suffix in sorted(icon_set.suffixes, key=len, reverse=True):
        if suffix and icon.endswith(suffix):
            icon = icon[: -len(suffix)]
            break
    return plain(re.sub(r"-\d+(-regular|-filled|-light|-color)?$", "", icon))


def common_names(
    sets: dict[str, IconSet], data: dict[str, SetData]
) -> dict[str, list[tuple[str, str]]]:
    """Names that enough sets draw, with their icons (set, icon): one a set and then some more."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, content in data.items():
        for icon in content.data["icons"]:
            found[base_name(icon, sets[name])][name].append(icon)
    chosen = {}
    for base, by_set in sorted(found.items()):
        if len(by_set) < SETS_WANTED or len(base) < 2:
            continue
        random = Random(base)
        queues = [(name, sorted(icons)) for name, icons in sorted(by_set.items())]
        random.shuffle(queues)
        picked: list[tuple[str, str]] = []
        depth = 0
        while len(picked) < DRAWINGS_AT_MOST and any(depth < len(icons) for _, icons in queues):
            picked += [(name, icons[depth]) for name, icons in queues if depth < len(icons)]
            depth += 1
        chosen[base] = picked[:DRAWINGS_AT_MOST]
    return chosen


def wide(root: Path = HERE) -> Path:
    """Draw them all into build/wide.npz."""
    sets = {
        name: icon_set
        for name, icon_set in read_sets(root / "sets.toml").items()
        if icon_set.role == "scorer" and not icon_set.local
    }
    data = {name: load_set(icon_set, root) for name, icon_set in sets.items()}
    chosen = common_names(sets, data)
    pixels, labels, mono = [], [], []
    for label, icons in enumerate(chosen.values()):
        for name, icon in icons:
            try:
                pixels.append(draw(icon_entry(data[name].data, icon)))
            except ValueError:
                continue
            labels.append(label)
            mono.append(sets[name].mono)
    np.savez_compressed(PATH, pixels=np.stack(pixels), labels=np.array(labels), mono=np.array(mono))
    print(f"{len(chosen)} names, {len(pixels)} drawings")
    return PATH


def load_wide(path: Path = PATH) -> tuple[Drawings, torch.Tensor]:
    """The drawings and their classes, int64 [N]."""
    content = np.load(path)
    pixels = torch.from_numpy(content["pixels"]).permute(0, 3, 1, 2).contiguous()
    records = [{"mono": bool(m), "role": "scorer"} for m in content["mono"]]
    return Drawings(pixels, records), torch.from_numpy(content["labels"])

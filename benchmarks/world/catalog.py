"""The catalogue: which icon of which set draws which concept, and who may learn from it."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = "thing"
LOCAL_SIZE = 128
"""The view box of the drawings made for this project."""


@dataclass(frozen=True)
class IconSet:
    """One icon set: where it comes from, its licence, and what its drawings are for."""

    name: str
    version: str
    sha256: str
    licence: str
    author: str
    url: str
    title: str
    role: str
    """"generator", "scorer" or "scorer-eval"."""
    mono: bool = False
    style: str = ""
    suffixes: tuple[str, ...] = ("",)
    local: bool = False
    """Drawn for this project: SVG files in drawings/ROLE, not an npm package."""
    package: str = ""
    """The npm package, where it isn't one of Iconify's: pictures named by their code points."""

    @property
    def spec(self) -> str:
        """The set's npm package and version."""
        return f"{self.package or f'@iconify-json/{self.name}'}@{self.version}"


@dataclass(frozen=True)
class Concept:
    """One name that the model learns, and how its drawings are found."""

    name: str
    family: str
    split: str
    kind: str = "object"
    icons: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    drop: frozenset[str] = frozenset()
    shared: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """One icon under one concept, for one reader."""

    concept: str
    set: str
    icon: str
    role: str
    mono: bool


@dataclass
class SetData:
    """A set's icons, as Iconify's JSON has them."""

    data: dict[str, Any]
    by_plain: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Index the icon names without their hyphens."""
        for name in self.names():
            self.by_plain.setdefault(plain(name), []).append(name)

    def names(self) -> Iterator[str]:
        """All names, aliases last."""
        yield from self.data["icons"]
        yield from self.data.get("aliases", {})

    def original(self, name: str) -> str:
        """Follow aliases that only rename (no flip, no turn) to the icon they stand for."""
        aliases = self.data.get("aliases", {})
        while name in aliases and set(aliases[name]) == {"parent"}:
            name = aliases[name]["parent"]
        return name


def plain(name: str) -> str:
    """A name without hyphens, so that "red-apple" and "redapple" are the same."""
    return name.replace("-", "")


def read_sets(path: Path = HERE / "sets.toml") -> dict[str, IconSet]:
    """The sets, in the file's order (their order of preference)."""
    table = tomllib.loads(path.read_text())
    sets = {}
    for name, entry in table["sets"].items():
        entry = dict(entry)
        entry["suffixes"] = tuple(entry.get("suffixes", [""]))
        sets[name] = IconSet(name=name, **entry)
    return sets


def read_concepts(path: Path = HERE / "concepts.toml") -> list[Concept]:
    """The concepts in the file's order; even places of a family are its pool."""
    table = tomllib.loads(path.read_text())
    concepts = []
    for family, members in table["families"].items():
        for place, (name, entry) in enumerate(members.items()):
            entry = dict(entry)
            entry.setdefault("icons", [re.sub("[^a-z0-9]+", "-", name)])
            entry["drop"] = frozenset(entry.get("drop", ()))
            for key in ("icons", "aliases", "add", "shared"):
                entry[key] = tuple(entry.get(key, ()))
            split = "pool" if place % 2 == 0 else "held-out"
            concepts.append(Concept(name=name, family=family, split=split, **entry))
    return concepts


def read_tree(path: Path = HERE / "concepts.toml") -> dict[str, tuple[str, ...]]:
    """Each family's ancestors, itself first and the root left out."""
    parents = tomllib.loads(path.read_text())["tree"]
    tree = {}
    for family in parents:
        line = [family]
        while (parent := parents[line[-1]]) != ROOT:
            line.append(parent)
        tree[family] = tuple(line)
    return tree


def read_unspoken(path: Path = HERE / "concepts.toml") -> frozenset[str]:
    """The families whose names are no English."""
    return frozenset(tomllib.loads(path.read_text())["unspoken"])


def read_colours(path: Path = HERE / "concepts.toml") -> dict[str, tuple[int, int, int]]:
    """The named colours in which single-colour drawings are drawn."""
    colours = tomllib.loads(path.read_text())["colours"]
    return {name: rgb(value) for name, value in colours.items()}


def rgb(colour: str) -> tuple[int, int, int]:
    """Turn "#rrggbb" into three numbers."""
    if not re.fullmatch(r"#[0-9a-f]{6}", colour):
        raise ValueError(f"{colour!r} is not of the form #rrggbb")
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def load_set(icon_set: IconSet, root: Path = HERE) -> SetData:
    """Read one fetched set, or the drawings made for this project.

    A package of pictures is read as icons whose body is the picture's path; noto's chars.json gives
    them their names.
    """
    folder = root / "build" / "sets"
    if icon_set.package:
        names = json.loads((folder / "noto" / "chars.json").read_text())
        names = {code.replace("-fe0f", ""): name for code, name in names.items()}
        icons = {}
        for path in sorted((folder / icon_set.name).glob("*.webp")):
            if (code := path.stem.replace("-fe0f", "")) in names:
                icons[names[code]] = {"picture": str(path)}
        return SetData({"icons": icons})
    if not icon_set.local:
        return SetData(json.loads((folder / icon_set.name / "icons.json").read_text()))
    icons = {}
    for path in sorted((root / "drawings" / icon_set.role).glob("*.svg")):
        body = path.read_text().partition(">")[2].rpartition("</svg>")[0]
        icons[path.stem] = {"body": body}
    return SetData({"icons": icons, "width": LOCAL_SIZE, "height": LOCAL_SIZE})


def digest(data: bytes) -> str:
    """The sha256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def matches(concept: Concept, icon_set: IconSet, data: SetData) -> list[str]:
    """The set's icons that draw the concept, best first, without renamings and dropped ones."""
    found: list[str] = []
    for base in concept.icons:
        for suffix in icon_set.suffixes:
            found += data.by_plain.get(plain(base + suffix), [])
    for entry in concept.add:
        set_name, icon = entry.split(":")
        if set_name == icon_set.name:
            found.append(icon)
    kept: list[str] = []
    for name in found:
        name = data.original(name)
        full = f"{icon_set.name}:{name}"
        if name not in kept and not any(fnmatchcase(full, pattern) for pattern in concept.drop):
            kept.append(name)
    return kept


def resolve(
    concepts: list[Concept], sets: dict[str, IconSet], data: dict[str, SetData]
) -> list[Drawing]:
    """Every drawing, by concept and set.

    A generator set gives one drawing per concept (the first that it has); the drawings made for
    this project all count. A scorer set gives all that it has. `shared` gives single drawings
    ("set:icon:role") a role that is not their set's.
    """
    drawings: list[Drawing] = []
    for concept in concepts:
        shared = [tuple(entry.split(":")) for entry in concept.shared]
        moved = {(name, icon) for name, icon, _ in shared}
        for name, icon_set in sets.items():
            role, mono = icon_set.role, icon_set.mono
            found = [i for i in matches(concept, icon_set, data[name]) if (name, i) not in moved]
            if role == "generator" and not icon_set.local:
                found = found[:1]
            drawings += [Drawing(concept.name, name, icon, role, mono) for icon in found]
        drawings += [Drawing(concept.name, n, icon, role, sets[n].mono) for n, icon, role in shared]
    return drawings

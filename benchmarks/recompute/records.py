"""A store's files as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAN = float("nan")


@dataclass(frozen=True)
class Side:
    """One concept's images on one side of an erasure: a value per noise, NaN where missing."""

    noises: tuple[int, ...]
    scores: tuple[float, ...]
    ranks: tuple[float, ...]
    measures: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Drawn:
    """A concept before and after."""

    concept: str
    role: str
    before: Side
    after: Side


@dataclass(frozen=True)
class Run:
    """A record: one erasure with its evaluation, or the model before any ("base").

    `weights` drew the images: the model's hash, or the name of the edit.
    """

    file: str
    method: str
    erased: str
    seed: int
    weights: str
    names: tuple[tuple[str, ...], ...]
    pages: tuple[tuple[dict[str, Any], ...], ...]
    sheets: tuple[str, ...]
    exposed: tuple[str, ...]
    labels: str
    concepts: tuple[Drawn, ...]
    sets: dict[str, float]
    """What was measured of all captions' images together; it is not worked out anew."""


class DamagedError(Exception):
    """A file that is not there, or does not say what it should."""


@dataclass(frozen=True)
class Sweep:
    """What the latest sweep of a store consists of: `about` it, and its runs, base first."""

    key: str
    about: dict[str, Any]
    runs: tuple[Run, ...]


def content_key(data: Any) -> str:
    """SHA-256 of the data as compact JSON with sorted keys: what the store names files by."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_sweep(store: Path) -> Sweep:
    """The sweep that was started last.

    Raises:
        DamagedError: no sweep, or a record of it is missing or is not what its name says.
    """
    listed = [read_json(path) for path in sorted(store.glob("sweeps/[!.]*.json"))]
    if not listed:
        raise DamagedError(f"{store} lists no sweep")
    latest = max(listed, key=lambda sweep: sweep["started"])
    runs = []
    for case in latest["cases"]:
        base = _run(store / "base" / f"{case['base']}.json")
        cells = [_run(store / "cells" / f"{cell['key']}.json") for cell in case["cells"]]
        runs += [run for run in (base, *cells) if run is not None]
    return Sweep(latest["key"], latest["about"], tuple(_with_roles(runs)))


def read_sheet(
    store: Path, key: str, weights: str, page: Sequence[dict[str, Any]]
) -> NDArray[np.uint8]:
    """The images of a page, uint8 [concepts, noises, H, W, 3].

    Raises:
        DamagedError: no such picture, or its text chunk says that it is of something else.
    """
    path = store / "sheets" / f"{key}.png"
    try:
        with Image.open(path) as picture:
            note = json.loads(picture.text["erasekit"])  # type: ignore[attr-defined]
            pixels = np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, KeyError, ValueError) as error:
        raise DamagedError(f"{path} can't be read ({error})") from error
    if content_key(note) != key:
        raise DamagedError(f"{path} is not named by what it says of itself")
    wanted = (weights, [c["prompt"] for c in page], [list(c["noises"]) for c in page])
    if (note["weights"], note["prompts"], note["noises"]) != wanted:
        raise DamagedError(f"{path} shows something else than its record says")
    rows, columns = len(page), len(page[0]["noises"])
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    return pixels.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DamagedError: there is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} can't be read ({error})") from error
    if not isinstance(data, dict):
        raise DamagedError(f"{path} holds no object")
    return data


def _run(path: Path) -> Run | None:
    """The run of a record, or None where it failed."""
    data = read_json(path)
    cell = data["cell"]
    identity = cell["identity"]
    if content_key(identity) != path.stem or data["key"] != path.stem:
        raise DamagedError(f"{path} is not named by its identity")
    if data["status"] != "done":
        return None
    evaluation = identity["evaluation"]
    erased = identity["erasure"]["erasure"]["erased"] if "erasure" in identity else ()
    return Run(
        f"{path.parent.name}/{path.name}",
        cell["method"],
        cell["erased"],
        cell["seed"],
        data["edit"] or identity["model"],
        tuple((concept["text"], *concept["aliases"]) for concept in erased),
        tuple(tuple(page) for page in evaluation["concepts"]),
        tuple(data["sheets"]),
        tuple(data["exposed"]),
        evaluation["labels"],
        tuple(
            Drawn(c["concept"], c.get("split") or c["role"], _side(c["before"]), _side(c["after"]))
            for c in data["concepts"]
        ),
        {
            name: NAN if found["value"] is None else float(found["value"])
            for name, found in data.get("sets", {}).items()
        },
    )


def _side(data: dict[str, Any]) -> Side:
    def values(found: Sequence[float | None]) -> tuple[float, ...]:
        return tuple(NAN if value is None else float(value) for value in found)

    return Side(
        tuple(data["noises"]),
        values(data["scores"]),
        values(data["ranks"]),
        {name: values(found) for name, found in data.get("measures", {}).items()},
    )


def _with_roles(runs: Sequence[Run]) -> list[Run]:
    """A held-out concept that one run of an erased set was exposed to is pool for all of them."""
    exposed: dict[str, set[str]] = {}
    for run in runs:
        exposed.setdefault(run.erased, set()).update(run.exposed)

    def role(drawn: Drawn, run: Run) -> str:
        spoilt = drawn.role == "held-out" and drawn.concept in exposed[run.erased]
        return "pool" if spoilt else drawn.role

    return [
        replace(run, concepts=tuple(replace(c, role=role(c, run)) for c in run.concepts))
        for run in runs
    ]

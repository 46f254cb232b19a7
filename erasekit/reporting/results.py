"""What a report shows: benchmarks and single erasures, read from the folders that hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from erasekit.bench.records import ConceptRow, Record, Summary
from erasekit.bench.store import MARKER, RecordStore, open_store
from erasekit.bench.summary import summarise_stored
from erasekit.edits import INFO, read_history
from erasekit.errors import ConfigError, EditError
from erasekit.metrics.scores import Split, mean
from erasekit.plugin.registry import Registry
from erasekit.training.run_folder import MEASURES

SHEETS = {
    "before-after.png": "Before and after, at the same noise",
    "adversaries.png": "What was preserved, along the run",
}
"""Pictures of a run folder, and what they show."""
PROVENANCE = (
    *("method", "concepts", "neutral", "keep", "config", "seed", "base_model", "versions"),
    *("command", "seconds", "unet_passes"),
)
"""What a report says of an edit."""

HARMED = 6
"""Kept concepts shown per erased set beside the erased ones."""


@dataclass(frozen=True)
class ConceptImages:
    """One concept drawn by several methods from the same noises.

    Attributes:
        concept, split, family: the concept.
        noises: seeds of the starting noises.
        images: by method, uint8 [noises, H, W, 3]; a method whose images are gone is left out.
    """

    concept: str
    split: Split
    family: str
    noises: tuple[int, ...]
    images: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Gallery:
    """The pictures of one erased set, what matters most first."""

    erased: str
    concepts: Sequence[ConceptImages]


@dataclass(frozen=True)
class BenchResult:
    """A benchmark.

    Attributes:
        name: of its folder.
        about: model, model_hash, suite, suite_version, scorer; JSON-ready.
        summary: its numbers.
        galleries: its pictures, per erased set.
        commands: command lines that made its edits.
        versions: of the packages that made them; several where they differ.
        settings: hyperparameters by method; several values where they differ between edits.
        generation: how its images were drawn.
    """

    name: str
    about: Mapping[str, Any]
    summary: Summary
    galleries: Sequence[Gallery] = ()
    commands: Sequence[str] = ()
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """A single erasure.

    Attributes:
        name: of its folder.
        info: provenance, as `edit.json` has it.
        history: as `history.jsonl` has it.
        measures: as `Measured.as_dict` gives it, or None where nothing was measured.
        sheets: pictures with what they show, uint8 [H, W, 3].
    """

    name: str
    info: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()
    measures: Mapping[str, Any] | None = None
    sheets: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that goes on one page.

    Attributes:
        title: of the page; "" takes that of its first section.
        results: its sections, in order.
        version: of erasekit.
        command: the command line that writes the page, or "".
    """

    title: str
    results: Sequence[BenchResult | RunResult]
    version: str
    command: str = ""


def read_result(folder: Path, registry: Registry) -> BenchResult | RunResult:
    """The benchmark or the erasure in a folder.

    Raises:
        EditError: it holds neither, or a file of it is damaged.
        ConfigError: a benchmark of which nothing is there yet.
        OutputError: a store of another schema.
    """
    if (folder / MARKER).is_file():
        return read_bench(folder, registry)
    if (folder / INFO).is_file():
        return read_run(folder)
    if not folder.is_dir():
        raise EditError(f"There is no folder {str(folder)!r}; name one that bench or erase wrote.")
    raise EditError(
        f"The folder {str(folder)!r} holds neither a benchmark nor a finished erasure; name one "
        "that bench or erase wrote."
    )


def read_bench(folder: Path, registry: Registry) -> BenchResult:
    """The sweep that was run last in a store, as far as it has come.

    Raises:
        ConfigError: nothing of it is there yet.
        OutputError: a store of another schema.
    """
    store = open_store(folder)
    manifest = store.manifests()[-1]
    records = store.records_of(manifest)
    if not records:
        raise ConfigError(
            f"The store {str(folder)!r} has no record yet; run its `erasekit bench` command again."
        )
    summary = summarise_stored(records, manifest.about, registry)
    paths = [folder / "edits" / edit / INFO for edit in _edits(records)]
    infos = [_json_object(path) for path in paths if path.is_file()]
    return BenchResult(
        folder.resolve().name,
        manifest.about,
        summary,
        [
            _gallery(store, records, summary, erased)
            for erased in dict.fromkeys(record.cell.erased for record in records)
        ],
        list(dict.fromkeys(info["command"] for info in infos)),
        _distinct(info["versions"] for info in infos),
        {
            method: _distinct(info["config"] for info in infos if info["method"] == method)
            for method in dict.fromkeys(info["method"] for info in infos)
        },
        records[0].cell.identity["evaluation"]["generation"],
    )


def read_run(folder: Path) -> RunResult:
    """A finished erasure.

    Raises:
        EditError: a file of it is damaged.
    """
    info = _json_object(folder / INFO)
    missing = [key for key in PROVENANCE if key not in info]
    if missing:
        raise EditError(
            f"The file {str(folder / INFO)!r} lacks {missing[0]!r}; name a folder that erase wrote."
        )
    return RunResult(
        folder.resolve().name,
        info,
        read_history(folder),
        _json_object(folder / MEASURES) if (folder / MEASURES).is_file() else None,
        {
            what: _pixels(folder / name)
            for name, what in SHEETS.items()
            if (folder / name).is_file()
        },
    )


def _gallery(
    store: RecordStore, records: Sequence[Record], summary: Summary, erased: str
) -> Gallery:
    """Each method's first erasure seed; erased concepts first, then those harmed most."""
    firsts: dict[str, Record] = {}
    for record in records:
        if record.cell.erased == erased and record.status == "done":
            firsts.setdefault(record.cell.method, record)
    drawn = {method: store.images(record) for method, record in firsts.items()}
    harm = _harm(row for row in summary.per_concept if row.erased == erased)
    splits = {row.concept: row.split for row in summary.per_concept if row.erased == erased}
    concepts = {c.concept: c for record in firsts.values() for c in record.concepts}

    def order(name: str) -> tuple[bool, float]:
        return concepts[name].split != "erased", -harm.get(name, -math.inf)

    return Gallery(
        erased,
        [
            ConceptImages(
                name,
                splits.get(name, concepts[name].split),
                concepts[name].family,
                concepts[name].before.noises,
                {method: images[name] for method, images in drawn.items() if name in images},
            )
            for name in sorted(concepts, key=order)
            if any(name in images for images in drawn.values())
        ],
    )


def comparison_rows(
    store: RecordStore, records: Sequence[Record], summary: Summary, erased: str
) -> tuple[list[str], list[tuple[str, NDArray[np.uint8]]]]:
    """Methods, and per concept a label with one image of each method, all from the same noise.

    The erased concepts come first, two noises each, then the `HARMED` kept ones that were harmed
    most. Each method shows its first erasure seed; an image that is not there is white.
    """
    concepts = _gallery(store, records, summary, erased).concepts
    done = [r.cell.method for r in records if r.cell.erased == erased and r.status == "done"]
    methods = list(dict.fromkeys(done))
    kept = [c for c in concepts if c.split in ("held-out", "pool")][:HARMED]
    rows = []
    for concept in [*(c for c in concepts if c.split == "erased"), *kept]:
        blank = np.full_like(next(iter(concept.images.values()))[0], 255)
        noises = min(2, len(concept.noises)) if concept.split == "erased" else 1
        label = concept.concept + (" (erased)" if concept.split == "erased" else "")
        for noise in range(noises):
            own = [concept.images[m][noise] if m in concept.images else blank for m in methods]
            rows.append((label, np.stack(own)))
    return methods, rows


def _harm(rows: Iterable[ConceptRow]) -> dict[str, float]:
    """Mean delta over methods of each concept; without those that have none."""
    deltas: dict[str, list[float]] = {}
    for row in rows:
        deltas.setdefault(row.concept, []).append(row.delta.value)
    means = {concept: mean(values) for concept, values in deltas.items()}
    return {concept: value for concept, value in means.items() if not math.isnan(value)}


def _edits(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(record.edit for record in records if record.edit))


def _distinct(mappings: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """All values of every key, each once, as text."""
    found: dict[str, list[str]] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            values = found.setdefault(key, [])
            if str(value) not in values:
                values.append(str(value))
    return found


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise EditError(f"The file {str(path)!r} is damaged ({error}); remove it.") from error


def _json_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            return data
    except (OSError, ValueError, RecursionError) as error:
        raise EditError(f"The file {str(path)!r} can't be read ({error}).") from error
    raise EditError(f"The file {str(path)!r} is damaged (no object).")

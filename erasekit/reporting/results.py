"""Benchmarks and single erasures, read for a report from the folders that hold them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from erasekit.bench.records import Record, Summary
from erasekit.bench.store import MARKER, RecordStore, open_store
from erasekit.bench.summary import summarise_stored
from erasekit.edits import INFO, read_history
from erasekit.errors import ConfigError, EditError
from erasekit.files import read_json
from erasekit.metrics.scores import Split, mean
from erasekit.plugin.registry import Registry
from erasekit.reporting.pictures import Row
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
        concept, split: the concept.
        noises: how many.
        images: by method, uint8 [noises, H, W, 3]; a method whose images are gone is left out.
    """

    concept: str
    split: Split
    noises: int
    images: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class BenchResult:
    """A benchmark.

    Attributes:
        name: of its folder.
        about: model, model_hash, suite, suite_version, scorer; JSON-ready.
        summary: its numbers.
        galleries: its pictures by erased set, what matters most first.
        commands: command lines that made its edits.
        versions: of the packages that made them; several where they differ.
        settings: hyperparameters by method; several values where they differ between edits.
        generation: how its images were drawn.
    """

    name: str
    about: Mapping[str, Any]
    summary: Summary
    galleries: Mapping[str, Sequence[ConceptImages]] = field(default_factory=dict)
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


def read_result(folder: Path, registry: Registry) -> BenchResult | RunResult:
    """The sweep that was run last in a store, as far as it has come, or a finished erasure.

    Raises:
        EditError: the folder holds neither, or a file of it is damaged.
        ConfigError: a benchmark of which nothing is there yet.
        OutputError: a store of another schema.
    """
    if (folder / MARKER).is_file():
        return _read_bench(folder, registry)
    if (folder / INFO).is_file():
        return _read_run(folder)
    if not folder.is_dir():
        raise EditError(f"There is no folder {str(folder)!r}; name one that bench or erase wrote.")
    raise EditError(
        f"The folder {str(folder)!r} holds neither a benchmark nor a finished erasure; name one "
        "that bench or erase wrote."
    )


def _read_bench(folder: Path, registry: Registry) -> BenchResult:
    store = open_store(folder)
    manifest = store.manifests()[-1]
    records = store.records_of(manifest)
    if not records:
        raise ConfigError(
            f"The store {str(folder)!r} has no record yet; run its `erasekit bench` command again."
        )
    summary = summarise_stored(records, manifest.about, registry)
    edits = dict.fromkeys(
        folder / "edits" / record.edit / INFO for record in records if record.edit
    )
    infos = [read_json(path, EditError) for path in edits if path.is_file()]
    sets = dict.fromkeys(record.cell.erased for record in records)
    return BenchResult(
        folder.resolve().name,
        manifest.about,
        summary,
        {erased: _gallery(store, records, summary, erased) for erased in sets},
        list(dict.fromkeys(info["command"] for info in infos)),
        _distinct(info["versions"] for info in infos),
        {
            method: _distinct(info["config"] for info in infos if info["method"] == method)
            for method in dict.fromkeys(info["method"] for info in infos)
        },
        records[0].cell.identity["evaluation"]["generation"],
    )


def _read_run(folder: Path) -> RunResult:
    info = read_json(folder / INFO, EditError)
    for key in PROVENANCE:
        if key not in info:
            raise EditError(
                f"The file {str(folder / INFO)!r} lacks {key!r}; name a folder that erase wrote."
            )
    measures, sheets = folder / MEASURES, {folder / name: what for name, what in SHEETS.items()}
    return RunResult(
        folder.resolve().name,
        info,
        read_history(folder),
        read_json(measures, EditError) if measures.is_file() else None,
        {what: _pixels(path) for path, what in sheets.items() if path.is_file()},
    )


def _gallery(
    store: RecordStore, records: Sequence[Record], summary: Summary, erased: str
) -> list[ConceptImages]:
    """Each method's first erasure seed; erased concepts first, then those harmed most."""
    firsts: dict[str, Record] = {}
    for record in records:
        if record.cell.erased == erased and record.status == "done":
            firsts.setdefault(record.cell.method, record)
    drawn = {method: store.images(record) for method, record in firsts.items()}
    concepts = {c.concept: c for record in firsts.values() for c in record.concepts}
    own = [row for row in summary.per_concept if row.erased == erased]
    splits = {row.concept: row.split for row in own}

    def order(name: str) -> tuple[bool, float]:
        harm = mean([row.delta.value for row in own if row.concept == name])
        return concepts[name].split != "erased", math.inf if math.isnan(harm) else -harm

    return [
        ConceptImages(
            name,
            splits.get(name, concepts[name].split),
            len(concepts[name].before.noises),
            {method: images[name] for method, images in drawn.items() if name in images},
        )
        for name in sorted(concepts, key=order)
        if any(name in images for images in drawn.values())
    ]


def comparison_rows(
    store: RecordStore, records: Sequence[Record], summary: Summary, erased: str
) -> tuple[list[str], list[Row]]:
    """Methods, and rows of a sheet with one image of each method, all from the same noise.

    The erased concepts come first, two noises each, then the `HARMED` kept ones that were harmed
    most. Each method shows its first erasure seed; an image that is not there is white.
    """
    concepts = _gallery(store, records, summary, erased)
    done = [r.cell.method for r in records if r.cell.erased == erased and r.status == "done"]
    methods = list(dict.fromkeys(done))
    kept = [c for c in concepts if c.split in ("held-out", "pool")][:HARMED]
    rows = []
    for concept in [*(c for c in concepts if c.split == "erased"), *kept]:
        blank = np.full_like(next(iter(concept.images.values())), 255)
        gone = concept.split == "erased"
        for noise in range(min(2, concept.noises) if gone else 1):
            images = [concept.images.get(method, blank)[noise] for method in methods]
            rows.append(Row(concept.concept + (" (erased)" if gone else ""), images))
    return methods, rows


def _distinct(mappings: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """All values of every key, each once, as text."""
    found: dict[str, dict[str, None]] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            found.setdefault(key, {})[str(value)] = None
    return {key: list(values) for key, values in found.items()}


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise EditError(f"The file {str(path)!r} is damaged ({error}); remove it.") from error

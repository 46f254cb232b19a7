"""Folders that other commands wrote, read as the results of a report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasekit.errors import ConfigError, EditError
from erasekit.plugin.registry import Registry
from erasekit.records import ConceptRow, Record, Summary, mean
from erasekit.reporting.report import BenchResult, ConceptImages, Gallery, RunResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from erasekit.bench.store import RecordStore

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


def read_result(folder: Path, registry: Registry) -> BenchResult | RunResult:
    """The benchmark or the erasure in a folder.

    Raises:
        EditError: it holds neither, or a file of it is damaged.
        ConfigError: a benchmark of which nothing is there yet.
        OutputError: a store of another schema.
    """
    from erasekit.bench.store import MARKER
    from erasekit.edits import INFO

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
    from erasekit.cli.bench_runs import open_store, summarise_stored
    from erasekit.edits import INFO

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
    from erasekit.edits import INFO, read_history
    from erasekit.training.run_folder import MEASURES

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
    from erasekit.bench.pictures import images_of

    firsts: dict[str, Record] = {}
    for record in records:
        if record.cell.erased == erased and record.status == "done":
            firsts.setdefault(record.cell.method, record)
    drawn = {method: images_of(store, record) for method, record in firsts.items()}
    harm = _harm(row for row in summary.per_concept if row.erased == erased)
    roles = {row.concept: row.role for row in summary.per_concept if row.erased == erased}
    concepts = {c.concept: c for record in firsts.values() for c in record.concepts}

    def order(name: str) -> tuple[bool, float]:
        return concepts[name].role != "erased", -harm.get(name, -math.inf)

    return Gallery(
        erased,
        [
            ConceptImages(
                name,
                roles.get(name, concepts[name].role),
                concepts[name].family,
                concepts[name].before.noises,
                {method: images[name] for method, images in drawn.items() if name in images},
            )
            for name in sorted(concepts, key=order)
            if any(name in images for images in drawn.values())
        ],
    )


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
    import numpy as np
    from PIL import Image

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

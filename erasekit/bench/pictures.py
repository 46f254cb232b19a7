"""The images of records, looked up in the store: what the numbers were taken from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from erasekit.bench.store import RecordStore
from erasekit.metrics.base import Images
from erasekit.records import ConceptRow, Record, Summary, mean

HARMED = 6
"""Kept concepts shown per erased set."""


def images_of(store: RecordStore, record: Record) -> dict[str, Images]:
    """Images after an erasure by concept, each uint8 [noises, H, W, 3].

    A concept whose sheet is not there any more is left out.
    """
    found: dict[str, Images] = {}
    pages = record.cell.identity["evaluation"]["concepts"]
    for key, page in zip(record.sheets, pages, strict=True):
        images = store.sheet(key, (len(page), len(page[0]["noises"])))
        if images is not None:
            for row, own in zip(page, images, strict=True):
                seen = found.get(row["concept"])
                found[row["concept"]] = own if seen is None else np.concatenate([seen, own])
    return found


def comparison_rows(
    store: RecordStore, records: Sequence[Record], summary: Summary, erased: str
) -> tuple[list[str], list[tuple[str, Images]]]:
    """Methods, and per concept a label with one image of each method, all from the same noise.

    The erased concepts come first, two noises each, then the kept concepts that were harmed most
    (mean over methods). Each method shows its first erasure seed.
    """
    firsts: dict[str, Record] = {}
    for record in records:
        if record.cell.erased == erased and record.status == "done":
            firsts.setdefault(record.cell.method, record)
    drawn = {method: images_of(store, record) for method, record in firsts.items()}
    blank = _blank(drawn.values())
    if blank is None:
        return [], []

    def row(label: str, concept: str, noise: int) -> tuple[str, Images]:
        pictures = [
            images[concept][noise] if concept in images else blank for images in drawn.values()
        ]
        return label, np.stack(pictures)

    rows = []
    for paired in next(iter(firsts.values())).concepts:
        if paired.role == "erased":
            for noise in range(min(2, len(paired.before.noises))):
                rows.append(row(f"{paired.concept} (erased)", paired.concept, noise))
    rows += [row(name, name, 0) for name in _harmed(summary.per_concept, erased)]
    return list(drawn), rows


def _harmed(per_concept: Sequence[ConceptRow], erased: str) -> list[str]:
    deltas: dict[str, list[float]] = {}
    for row in per_concept:
        if row.erased == erased:
            deltas.setdefault(row.concept, []).append(row.delta.value)
    means = {name: mean(values) for name, values in deltas.items()}
    known = [name for name, value in means.items() if not math.isnan(value)]
    return sorted(known, key=lambda name: -means[name])[:HARMED]


def _blank(drawn: Iterable[Mapping[str, Images]]) -> NDArray[np.uint8] | None:
    for images in drawn:
        for picture in images.values():
            shape = picture.shape[1:]
            return np.full(shape, 255, dtype=np.uint8)
    return None

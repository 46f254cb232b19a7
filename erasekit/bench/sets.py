"""Measures of all captions' images together, from features that are kept per sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from erasekit.bench.prompts import EvaluatedConcept
from erasekit.bench.sheets import SheetScorer
from erasekit.bench.sweep import PlannedCase
from erasekit.edits import Edit
from erasekit.metrics.base import SetMeasure
from erasekit.records import Estimate, content_key

Page = tuple[EvaluatedConcept, ...]


def measure_sets(
    sheets: SheetScorer, case: PlannedCase, weights: str, edit: Edit | None = None
) -> Mapping[str, Estimate]:
    """Every measure of the captions' images under these weights, by name.

    The un-erased model has none where it is itself what others are held against.

    Args:
        sheets: draws, and knows the measures.
        case: what is evaluated.
        weights: hash of the model, or key of the edit.
        edit: the edit; None for the model.
    """
    found: dict[str, Estimate] = {}
    for measure in sheets.judges.sets:
        if edit is None and not measure.reference:
            continue
        own = _features(sheets, measure, case, weights, edit)
        if measure.reference:
            reference = _reference(sheets, measure)
        else:
            reference = _features(sheets, measure, case, sheets.model.hash, None)
        found.update(measure.compare(own, reference))
    return found


def _features(
    sheets: SheetScorer, measure: SetMeasure, case: PlannedCase, weights: str, edit: Edit | None
) -> NDArray[np.float32]:
    """Of the images of all captions, in their order, [N, D]."""
    parts = []
    for page in _caption_pages(case):
        sheet = sheets.sheet(page, weights)
        key = content_key({"sheet": sheet.key, "extractor": measure.extractor})
        features = sheets.store.features(key)
        if features is None or len(features) != sheet.images:
            images = sheets.images(sheet, edit)
            features = measure.features(images.reshape(-1, *images.shape[2:]))
            sheets.store.put_features(key, features)
        parts.append(features)
    return np.concatenate(parts) if parts else np.empty((0, 1), dtype=np.float32)


def _reference(sheets: SheetScorer, measure: SetMeasure) -> NDArray[np.float32]:
    key = content_key({"reference": measure.reference, "extractor": measure.extractor})
    features = sheets.store.features(key)
    if features is None:
        features = measure.reference_features()
        sheets.store.put_features(key, features)
    return features


def _caption_pages(case: PlannedCase) -> Iterator[Page]:
    for page in case.pages:
        if page[0].role == "caption":
            yield page

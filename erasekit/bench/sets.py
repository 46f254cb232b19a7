"""Measures of all captions' images together, from features that are kept per sheet."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from erasekit.bench.prompts import EvaluatedConcept
from erasekit.bench.sheets import Sheet, SheetScorer
from erasekit.bench.source import SCORING, source_hash
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


def feature_key(sheet: Sheet, measure: SetMeasure) -> str:
    """Name of the features of a sheet's images in the store."""
    return _key({"sheet": sheet.key}, measure)


def missing_features(
    sheets: SheetScorer, measure: SetMeasure, cases: Iterable[tuple[PlannedCase, Iterable[str]]]
) -> int:
    """Images that `measure` has yet to look at, those of its reference aside.

    Args:
        sheets: knows their sheets, and the store.
        measure: the measure.
        cases: what is evaluated, each with the hash of the model and keys of edits.
    """
    lacking = {
        feature_key(sheet, measure): sheet.images
        for case, weights in cases
        for page, key in itertools.product(_caption_pages(case), weights)
        for sheet in [sheets.sheet(page, key)]
    }
    return sum(
        images for key, images in lacking.items() if not sheets.store.features_path(key).is_file()
    )


def _features(
    sheets: SheetScorer, measure: SetMeasure, case: PlannedCase, weights: str, edit: Edit | None
) -> NDArray[np.float32]:
    """Of the images of all captions, in their order, [N, D]."""
    parts = []
    for page in _caption_pages(case):
        sheet = sheets.sheet(page, weights)
        key = feature_key(sheet, measure)
        features = sheets.store.features(key)
        if features is None or len(features) != sheet.images:
            images = sheets.images(sheet, edit)
            features = measure.features(images.reshape(-1, *images.shape[2:]))
            sheets.store.put_features(key, features)
        parts.append(features)
    return np.concatenate(parts) if parts else np.empty((0, 1), dtype=np.float32)


def _reference(sheets: SheetScorer, measure: SetMeasure) -> NDArray[np.float32]:
    key = _key({"reference": measure.reference}, measure)
    features = sheets.store.features(key)
    if features is None:
        features = measure.reference_features()
        sheets.store.put_features(key, features)
    return features


def _key(images: Mapping[str, str], measure: SetMeasure) -> str:
    scoring = source_hash(SCORING)
    return content_key({**images, "extractor": measure.extractor, "scoring": scoring})


def _caption_pages(case: PlannedCase) -> Iterator[Page]:
    for page in case.pages:
        if page[0].role == "caption":
            yield page

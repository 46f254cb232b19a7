"""Draw the pages of an evaluation, score and save them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erasekit.bench.plan import SCORING, PlannedSet, generation_identity, source_hash
from erasekit.bench.prompts import EvaluatedConcept
from erasekit.bench.records import content_key
from erasekit.bench.store import RecordStore, sheet_png
from erasekit.bench.suite import Suite
from erasekit.diffusion.sampling import generate
from erasekit.edits import Edit
from erasekit.metrics.base import Images, Scorer, SetMeasure
from erasekit.metrics.judges import Judges
from erasekit.metrics.judges.labels import LabelSet
from erasekit.metrics.scores import ConceptScores, Estimate
from erasekit.models.families import FamilyAdapter
from erasekit.models.loading import LoadedModel

Page = tuple[EvaluatedConcept, ...]
"""What is drawn as one batch, a row per concept."""


@dataclass(frozen=True)
class Sheet:
    """The images of one page under one set of weights.

    Attributes:
        weights: hash of the model, or key of the edit.
    """

    weights: str
    page: Page
    generation: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.page), len(self.page[0].noises)

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "prompts": [concept.prompt for concept in self.page],
            "noises": [list(concept.noises) for concept in self.page],
            "generation": dict(self.generation),
        }

    @property
    def key(self) -> str:
        return content_key(self.identity)


class SheetScorer:
    """Draws sheets that are missing, and scores them from the 8-bit images that are saved.

    A page is one batch however the sweep was interrupted, so the images never depend on that. A
    sheet is encoded on a thread while it is scored and the next one is drawn, and written by
    `finish` or before the next one is encoded.

    Args:
        suite: the generation settings.
        on_images: called with the number of images just drawn.
    """

    def __init__(
        self,
        model: LoadedModel,
        judges: Scorer | Judges,
        store: RecordStore,
        suite: Suite,
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.model, self.judges, self.store = model, Judges.of(judges), store
        self.on_images = on_images
        self.generation = generation_identity(suite, model)
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._unsaved: tuple[str, Images, Future[bytes]] | None = None

    def sheet(self, page: Page, weights: str) -> Sheet:
        return Sheet(weights, page, self.generation)

    def scores(
        self, sheet: Sheet, labels: LabelSet, edit: Edit | None = None
    ) -> tuple[ConceptScores, ...]:
        """Scores of a sheet, a row per concept; drawn and scored where the store has none.

        Args:
            labels: the classes that a concept's rank is among.
            edit: the edit whose key the sheet's weights are; None draws with the base model.
        """
        found = self.known(sheet, labels)
        if found is not None:
            return found
        identity = self._identity(sheet, labels)
        images = self.images(sheet, edit)
        reference = images
        if self.judges.measures and edit is not None:
            reference = self.images(self.sheet(sheet.page, self.model.hash), None)
        rows = score_page(self.judges, labels, sheet.page, images, reference)
        self.store.put_scores(content_key(identity), rows, identity)
        return rows

    def known(self, sheet: Sheet, labels: LabelSet) -> tuple[ConceptScores, ...] | None:
        """Scores of a sheet that the store has, with its images, or None."""
        if not self.store.path("sheets", sheet.key).is_file():
            return None
        return self.store.scores(content_key(self._identity(sheet, labels)))

    def finish(self) -> None:
        """Save the sheet that was drawn last."""
        unsaved, self._unsaved = self._unsaved, None
        if unsaved is not None:
            key, _, png = unsaved
            self.store.put_sheet(key, png.result())

    def _identity(self, sheet: Sheet, labels: LabelSet) -> dict[str, Any]:
        return {
            "sheet": sheet.key,
            **self.judges.of_images,
            "scoring": source_hash(SCORING),
            "labels": content_key(labels.identity),
            "targets": [concept.concept for concept in sheet.page],
        }

    def images(self, sheet: Sheet, edit: Edit | None) -> Images:
        """The images of a sheet, uint8 [rows, columns, H, W, 3]; drawn where the store has none."""
        if self._unsaved is not None and self._unsaved[0] == sheet.key:
            return self._unsaved[1]
        images = self.store.sheet(sheet.key, sheet.shape)
        if images is None:
            cut = any(concept.split in ("probe", "caption") for concept in sheet.page)
            applied = edit.applied(self.model) if edit else nullcontext()
            with applied, _cutting(self.model.family, cut):
                drawn = generate(
                    self.model,
                    [concept.prompt for concept in sheet.page for _ in concept.noises],
                    [seed for concept in sheet.page for seed in concept.noises],
                    num_inference_steps=self.generation["num_inference_steps"],
                    guidance_scale=self.generation["guidance_scale"],
                    batch_size=self.generation["batch"],
                    on_images=self.on_images,
                )
            images = drawn.reshape(*sheet.shape, *drawn.shape[1:])
            self.finish()
            png = self._encoder.submit(sheet_png, images, sheet.identity)
            self._unsaved = sheet.key, images, png
        return images


@contextmanager
def _cutting(family: FamilyAdapter, cut: bool) -> Iterator[None]:
    """For the block, prompts that are too long are cut, as plain diffusers cuts them."""
    before = family.truncate
    family.truncate = before or cut
    try:
        yield
    finally:
        family.truncate = before


def score_page(
    judges: Judges,
    labels: LabelSet,
    page: Sequence[EvaluatedConcept],
    images: Images,
    reference: Images,
) -> tuple[ConceptScores, ...]:
    """Alignment, rank and further measures of every image of a page.

    A concept that is none of the classes has rank NaN.

    Args:
        page: the concepts, one per row.
        images, reference: uint8 [rows, columns, H, W, 3], and as the base model draws them.
    """
    columns = images.shape[1]
    flat, base = (a.reshape(-1, *a.shape[2:]) for a in (images, reference))
    scores = judges.scorer.score(flat, [what.prompt for what in page for _ in range(columns)])
    targets = [what.concept for what in page for _ in range(columns)]
    ranks = labels.ranks(judges.classifier, flat, targets)
    further = {
        name: values.tolist()
        for measure in judges.measures
        for name, values in measure.measure(flat, base).items()
    }
    return tuple(
        ConceptScores(
            what.prompt,
            what.noises,
            tuple(s.value for s in scores[own]),
            tuple(ranks[own]),
            {name: tuple(values[own]) for name, values in further.items()},
        )
        for what, own in (
            (what, slice(row * columns, (row + 1) * columns)) for row, what in enumerate(page)
        )
    )


def measure_sets(
    sheets: SheetScorer, planned: PlannedSet, weights: str, edit: Edit | None = None
) -> Mapping[str, Estimate]:
    """Every measure of the captions' images under these weights, by name.

    The un-erased model has none where it is itself what others are held against.

    Args:
        weights: hash of the model, or key of `edit`.
    """
    found: dict[str, Estimate] = {}
    for measure in sheets.judges.sets:
        if edit is None and not measure.reference:
            continue
        own = _features(sheets, measure, planned, weights, edit)
        if measure.reference:
            reference = _reference(sheets, measure)
        else:
            reference = _features(sheets, measure, planned, sheets.model.hash, None)
        found.update(measure.compare(own, reference))
    return found


def missing_features(
    sheets: SheetScorer, measure: SetMeasure, wanted: Iterable[tuple[PlannedSet, Iterable[str]]]
) -> int:
    """Images that `measure` has yet to look at, those of its reference aside.

    Args:
        wanted: what is evaluated, each with the hash of the model and keys of edits.
    """
    lacking = {
        _key({"sheet": sheet.key}, measure): math.prod(sheet.shape)
        for planned, weights in wanted
        for page, key in itertools.product(_caption_pages(planned), weights)
        for sheet in [sheets.sheet(page, key)]
    }
    return sum(
        images
        for key, images in lacking.items()
        if not sheets.store.path("features", key).is_file()
    )


def _features(
    sheets: SheetScorer, measure: SetMeasure, planned: PlannedSet, weights: str, edit: Edit | None
) -> NDArray[np.float32]:
    """Of the images of all captions, in their order, [N, D]."""
    parts = []
    for page in _caption_pages(planned):
        sheet = sheets.sheet(page, weights)
        key = _key({"sheet": sheet.key}, measure)
        features = sheets.store.features(key)
        if features is None or len(features) != math.prod(sheet.shape):
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


def _caption_pages(planned: PlannedSet) -> list[Page]:
    return [page for page in planned.pages if page[0].split == "caption"]

"""Draws the pages of an evaluation and scores what was saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from erasekit.bench.identity import generation_identity
from erasekit.bench.prompts import EvaluatedConcept
from erasekit.bench.store import RecordStore
from erasekit.bench.suite import Suite
from erasekit.diffusion.loading import LoadedModel
from erasekit.diffusion.sampling import generate
from erasekit.edits import Edit
from erasekit.metrics.base import Images, Scorer
from erasekit.metrics.labels import LabelSet
from erasekit.records import ConceptScores, content_key


@dataclass(frozen=True)
class Sheet:
    """The images of one page under one set of weights.

    Attributes:
        weights: hash of the model, or key of the edit.
        page: what is drawn, a row per concept.
        generation: how it is drawn.
    """

    weights: str
    page: tuple[EvaluatedConcept, ...]
    generation: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.page), len(self.page[0].noises)

    @property
    def images(self) -> int:
        """How many images it holds."""
        return sum(len(concept.noises) for concept in self.page)

    @property
    def identity(self) -> dict[str, Any]:
        """What the images depend on."""
        return {
            "weights": self.weights,
            "prompts": [concept.prompt for concept in self.page],
            "noises": [list(concept.noises) for concept in self.page],
            "generation": dict(self.generation),
        }

    @property
    def key(self) -> str:
        """Content hash of the identity."""
        return content_key(self.identity)


class SheetScorer:
    """Draws sheets that are missing, and scores them from the saved 8-bit images.

    A page is one batch however the sweep was interrupted, so the images never depend on that.

    Args:
        model: draws.
        scorer: scores.
        store: keeps both.
        suite: the generation settings.
        on_images: called with the number of images just drawn.
    """

    def __init__(
        self,
        model: LoadedModel,
        scorer: Scorer,
        store: RecordStore,
        suite: Suite,
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.model, self.scorer, self.store = model, scorer, store
        self.on_images = on_images
        self.generation = generation_identity(suite, model)

    def sheet(self, page: tuple[EvaluatedConcept, ...], weights: str) -> Sheet:
        """The sheet of a page under these weights."""
        return Sheet(weights, page, self.generation)

    def scores(
        self, sheet: Sheet, labels: LabelSet, edit: Edit | None = None
    ) -> tuple[ConceptScores, ...]:
        """Scores of a sheet, a row per concept; drawn and scored where the store has none.

        Args:
            sheet: what to score.
            labels: the classes that a concept's rank is among.
            edit: the edit whose key the sheet's weights are; None draws with the base model.
        """
        found = self.known(sheet, labels)
        if found is not None:
            return found
        identity = self._identity(sheet, labels)
        rows = score_page(self.scorer, labels, sheet.page, self._images(sheet, edit))
        self.store.put_scores(content_key(identity), rows, identity)
        return rows

    def known(self, sheet: Sheet, labels: LabelSet) -> tuple[ConceptScores, ...] | None:
        """Scores of a sheet that the store has, with its images, or None."""
        if not self.store.sheet_path(sheet.key).is_file():
            return None
        return self.store.scores(content_key(self._identity(sheet, labels)))

    def _identity(self, sheet: Sheet, labels: LabelSet) -> dict[str, Any]:
        return {
            "sheet": sheet.key,
            "scorer": self.scorer.identity,
            "labels": content_key(labels.identity),
            "targets": [concept.concept for concept in sheet.page],
        }

    def _images(self, sheet: Sheet, edit: Edit | None) -> Images:
        images = self.store.sheet(sheet.key, sheet.shape)
        if images is None:
            applied: AbstractContextManager[Any] = (
                edit.applied(self.model) if edit else nullcontext()
            )
            with applied:
                drawn = generate(
                    self.model,
                    [concept.prompt for concept in sheet.page for _ in concept.noises],
                    [seed for concept in sheet.page for seed in concept.noises],
                    num_inference_steps=self.generation["num_inference_steps"],
                    guidance_scale=self.generation["guidance_scale"],
                    batch_size=self.generation["batch"],
                    on_images=self.on_images,
                )
            self.store.put_sheet(
                sheet.key, drawn.reshape(*sheet.shape, *drawn.shape[1:]), sheet.identity
            )
            images = self.store.sheet(sheet.key, sheet.shape)
            assert images is not None
        return images


def score_page(
    scorer: Scorer, labels: LabelSet, page: Sequence[EvaluatedConcept], images: Images
) -> tuple[ConceptScores, ...]:
    """Alignment and rank of every image of a page.

    Args:
        scorer: scores.
        labels: the classes.
        page: the concepts, one per row.
        images: uint8 [rows, columns, H, W, 3].
    """
    columns = images.shape[1]
    flat = images.reshape(-1, *images.shape[2:])
    scores = scorer.score(flat, [what.prompt for what in page for _ in range(columns)])
    ranks = labels.ranks(scorer, flat, [what.concept for what in page for _ in range(columns)])
    return tuple(
        ConceptScores(
            what.prompt,
            what.noises,
            tuple(s.value for s in scores[row * columns : (row + 1) * columns]),
            tuple(ranks[row * columns : (row + 1) * columns]),
        )
        for row, what in enumerate(page)
    )

"""What a measurement leaves behind: cells and their records. No torch.

A *sheet* of images is scored; a *cell* is one erasure (method, erased concepts, seed) with its
evaluation; its `Record` holds the scores of every image before and after. Missing values are NaN
in memory and null on disk, never 0. What is made of records (`erasekit.summaries`) and what they
are made of (`erasekit.scores`) can be had from here too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from erasekit.scores import (
    NAN,
    NOTHING,
    ConceptScores,
    Estimate,
    Paired,
    Role,
    Score,
    concept_scores,
    estimate_of,
    mean,
    nan_to_null,
    number,
    paired_concepts,
)
from erasekit.summaries import Comparison, ConceptRow, Matched, MetricValue, Row, Summary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "NAN",
    "SCHEMA",
    "Cell",
    "Comparison",
    "ConceptRow",
    "ConceptScores",
    "Estimate",
    "Matched",
    "MetricValue",
    "Paired",
    "QuickConcept",
    "QuickResult",
    "Record",
    "Role",
    "Row",
    "Score",
    "Summary",
    "Waypoint",
    "concept_scores",
    "content_key",
    "mean",
    "nan_to_null",
]

SCHEMA = 1


def content_key(identity: Any) -> str:
    """64 hex digits that change whenever anything in a JSON-ready `identity` does."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One erasure and its evaluation, before it has run.

    Attributes:
        method: the method's name.
        erased: the erased concepts, joined by "+".
        seed: the erasure seed.
        identity: everything that changes the numbers, JSON-ready.
    """

    method: str
    erased: str
    seed: int
    identity: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Content hash of the identity."""
        return content_key(self.identity)


@dataclass(frozen=True)
class Waypoint:
    """An erasure's evaluation before it was over.

    Attributes:
        step: training steps done.
        concepts: every evaluated concept, before the erasure and after these steps.
        edit: name of the edit in the store.
        sheets: file names of the images.
    """

    step: int
    concepts: tuple[Paired, ...]
    edit: str = ""
    sheets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """What became of a cell.

    Attributes:
        cell: the cell.
        status: "done", or "failed" with `error`.
        concepts: every evaluated concept, before and after.
        edit: name of the edit in the store.
        seconds: duration of the erasure.
        forward, backward: batch-weighted UNet passes of the erasure.
        error: why it failed, or "".
        sheets: file names of the images after the erasure.
        exposed: held-out concepts that this method may have kept on purpose all the same, because
            its concept space or the user named them.
        steps: training steps of the whole erasure; 0 where that was not kept.
        along: the erasure at earlier steps, in their order, where it was scored along the way.
        sets: measures of all captions' images after the erasure together, by name.
        checksums: SHA-256 of each file of its images and edits, by its path in the store.
    """

    cell: Cell
    status: Literal["done", "failed"]
    concepts: tuple[Paired, ...] = ()
    edit: str = ""
    seconds: float = NAN
    forward: int = 0
    backward: int = 0
    error: str = ""
    sheets: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    steps: int = 0
    along: tuple[Waypoint, ...] = ()
    sets: Mapping[str, Estimate] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)

    @property
    def unet_passes(self) -> int:
        """Cost of the erasure: forward + 2 backward passes."""
        return self.forward + 2 * self.backward

    def to_json(self) -> dict[str, Any]:
        """As the store writes it."""
        data = {"schema": SCHEMA, "key": self.cell.key, **asdict(self)}
        cleaned: dict[str, Any] = nan_to_null(data)
        return cleaned

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}")
        return cls(
            cell=Cell(**data["cell"]),
            status=data["status"],
            concepts=paired_concepts(data["concepts"]),
            edit=data["edit"],
            seconds=number(data["seconds"]),
            forward=data["forward"],
            backward=data["backward"],
            error=data["error"],
            sheets=tuple(data["sheets"]),
            exposed=tuple(data["exposed"]),
            steps=data.get("steps", 0),
            along=tuple(
                Waypoint(w["step"], paired_concepts(w["concepts"]), w["edit"], tuple(w["sheets"]))
                for w in data.get("along", ())
            ),
            sets={name: estimate_of(found) for name, found in data.get("sets", {}).items()},
            checksums=data.get("checksums", {}),
        )


@dataclass(frozen=True)
class QuickConcept:
    """One concept at the end of a single erasure.

    Attributes:
        paired: its scores before and after.
        esr1: share of its images after the erasure whose class is not the scorer's top one; NaN
            with a note where the model did not draw it before either.
        delta: mean loss of alignment with its paired 95 % interval.
        images_before, images_after: uint8 [N, H, W, 3], from the same N noises.
        esr1_before: the same share of the un-erased model's images.
    """

    paired: Paired
    esr1: Estimate
    delta: Estimate
    images_before: NDArray[np.uint8]
    images_after: NDArray[np.uint8]
    esr1_before: Estimate = NOTHING

    @property
    def alignment_before(self) -> float:
        """Mean alignment before the erasure, NaN where nothing was drawn."""
        return mean(self.paired.before.scores)

    @property
    def alignment_after(self) -> float:
        """Mean alignment after it."""
        return mean(self.paired.after.scores)


@dataclass(frozen=True)
class QuickResult:
    """A first look at one edit: the erased concepts, then a spread of others.

    Attributes:
        concepts: erased concepts first, then near neighbours, then far ones.
        esr1: over all erased concepts' images.
        delta: mean over the concepts that should stay.
        scorer: name of the scorer.
        remarks: sentences the user should read, such as that a concept is hardly known.
    """

    concepts: tuple[QuickConcept, ...]
    esr1: Estimate
    delta: Estimate
    scorer: str = ""
    remarks: tuple[str, ...] = field(default=())

    @property
    def erased(self) -> list[QuickConcept]:
        """The erased concepts."""
        return [concept for concept in self.concepts if concept.paired.role == "erased"]

    @property
    def kept(self) -> list[QuickConcept]:
        """The concepts that should stay."""
        return [concept for concept in self.concepts if concept.paired.role != "erased"]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, JSON-ready; ESR-1 is a share of 1, missing numbers are None."""
        data: dict[str, Any] = nan_to_null(
            {
                "scorer": self.scorer,
                "esr1": self.esr1.value,
                "delta_mean": self.delta.value,
                "delta_ci95": [self.delta.low, self.delta.high],
                "erased": [
                    {
                        "concept": c.paired.concept,
                        "alignment_before": c.alignment_before,
                        "alignment_after": c.alignment_after,
                        "esr1": c.esr1.value,
                        "esr1_ci95": [c.esr1.low, c.esr1.high],
                        "esr1_before": c.esr1_before.value,
                        "n": c.esr1.n,
                    }
                    for c in self.erased
                ],
                "kept": [
                    {
                        "concept": c.paired.concept,
                        "family": c.paired.family,
                        "split": c.paired.role,
                        "delta": c.delta.value,
                        "ci95": [c.delta.low, c.delta.high],
                        "n": c.delta.n,
                    }
                    for c in self.kept
                ],
                "remarks": self.remarks,
            }
        )
        return data

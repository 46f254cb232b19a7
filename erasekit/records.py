"""What a measurement leaves behind: scores, cells, records, and the rows made of them. No torch.

A *sheet* of images is scored; a *cell* is one erasure (method, erased concepts, seed) with its
evaluation; its `Record` holds the scores of every image before and after. Missing values are NaN
in memory and null on disk, never 0.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["erased", "held-out", "pool"]
"""What a concept is in an evaluation: erased, kept and never kept on purpose, or kept and open to
the method to keep on purpose."""

SCHEMA = 1
NAN = math.nan


def content_key(identity: Any) -> str:
    """64 hex digits that change whenever anything in a JSON-ready `identity` does."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Score:
    """A scorer's word on one image.

    Attributes:
        value: alignment with the prompt, 100 * cosine; NaN for a missing image.
        prompt: the text it was held against.
        scorer: name of the scorer.
    """

    value: float
    prompt: str
    scorer: str


@dataclass(frozen=True)
class Estimate:
    """A mean with what it rests on.

    Attributes:
        value: the mean; NaN where there is nothing to average.
        n: values that went in.
        missing: values that should have gone in and were not there.
        low, high: 95 % confidence limits; NaN where they can't be had (one noise, one value).
    """

    value: float
    n: int
    missing: int = 0
    low: float = NAN
    high: float = NAN

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % limits, or None."""
        return None if math.isnan(self.low) else (self.low, self.high)


@dataclass(frozen=True)
class ConceptScores:
    """One concept's images on one sheet, scored.

    Attributes:
        prompt: what was drawn.
        noises: seed of each image's starting noise.
        scores: alignment with the prompt per image, 100 * cosine.
        ranks: place of the concept's class among all labels per image, 1 is the top.
    """

    prompt: str
    noises: tuple[int, ...]
    scores: tuple[float, ...]
    ranks: tuple[float, ...]


@dataclass(frozen=True)
class Paired:
    """One concept drawn from the same noises before and after an erasure.

    Attributes:
        concept: its name.
        role: erased, held-out or pool.
        family: the group of near neighbours it belongs to, or "".
        before, after: its scores; image i of both started from noise i.
    """

    concept: str
    role: Role
    family: str
    before: ConceptScores
    after: ConceptScores

    def __post_init__(self) -> None:
        if (self.before.prompt, self.before.noises) != (self.after.prompt, self.after.noises):
            raise ValueError(f"{self.concept!r} was not drawn from the same prompt and noises")

    @property
    def deltas(self) -> tuple[float, ...]:
        """Loss of alignment per noise: before - after; NaN where either is missing."""
        return tuple(b - a for b, a in zip(self.before.scores, self.after.scores, strict=True))


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
            concepts=tuple(
                Paired(
                    c["concept"],
                    c["role"],
                    c["family"],
                    concept_scores(c["before"]),
                    concept_scores(c["after"]),
                )
                for c in data["concepts"]
            ),
            edit=data["edit"],
            seconds=_number(data["seconds"]),
            forward=data["forward"],
            backward=data["backward"],
            error=data["error"],
            sheets=tuple(data["sheets"]),
            exposed=tuple(data["exposed"]),
        )


def concept_scores(data: Mapping[str, Any]) -> ConceptScores:
    """A `ConceptScores` from its JSON."""
    return ConceptScores(
        data["prompt"],
        tuple(data["noises"]),
        tuple(_number(value) for value in data["scores"]),
        tuple(_number(value) for value in data["ranks"]),
    )


@dataclass(frozen=True)
class Row:
    """One line of a bench table: a method on an erased set.

    Attributes:
        method: its name; "base" is the un-erased model.
        erased: the erased concepts, joined by "+".
        alignment_before, alignment_after: of the erased concepts, 100 * cosine.
        esr1: share of erased images whose class is not the top one.
        psr1: share of held-out images whose class is the top one.
        delta, delta_pool: mean loss of alignment over held-out and over pool concepts.
        worst: the held-out concept that lost most, and how much.
        seeds: erasure seeds that went in.
        failed: cells that failed.
        images: images after the erasure that went in.
        seconds, unet_passes: of one erasure, mean over seeds.
    """

    method: str
    erased: str
    alignment_before: Estimate
    alignment_after: Estimate
    esr1: Estimate
    psr1: Estimate
    delta: Estimate
    delta_pool: Estimate
    worst: tuple[str, float] | None
    seeds: int
    failed: int
    images: int
    seconds: float
    unet_passes: float


@dataclass(frozen=True)
class ConceptRow:
    """What an erasure by a method cost one concept. `delta.n` counts pairs of images."""

    method: str
    erased: str
    concept: str
    role: Role
    family: str
    delta: Estimate


@dataclass(frozen=True)
class Summary:
    """All rows of a sweep: per erased set base first, then the methods in the order asked for.

    Attributes:
        rows: one per method and erased set.
        overall: one per method over all erased sets; empty where there is one set only.
        per_concept: one per method, erased set and kept concept.
        failures: "method, erased, seed: error" of every failed cell.
    """

    rows: tuple[Row, ...]
    overall: tuple[Row, ...]
    per_concept: tuple[ConceptRow, ...]
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuickConcept:
    """One concept at the end of a single erasure.

    Attributes:
        paired: its scores before and after.
        esr1: share of its images after the erasure whose class is not the scorer's top one.
        delta: mean loss of alignment with its paired 95 % interval.
        images_before, images_after: uint8 [N, H, W, 3], from the same N noises.
    """

    paired: Paired
    esr1: Estimate
    delta: Estimate
    images_before: NDArray[np.uint8]
    images_after: NDArray[np.uint8]

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


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are there, NaN where none is."""
    there = [value for value in values if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else NAN


def nan_to_null(value: Any) -> Any:
    """A JSON-ready copy: NaN and infinities become None, tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    return value


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)

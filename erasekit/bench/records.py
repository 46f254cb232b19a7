"""Define what a benchmark leaves behind: cells, their records, and rows made of them. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from erasekit.attacks.results import Outcome
from erasekit.metrics.scores import (
    NAN,
    NOTHING,
    Estimate,
    Number,
    Paired,
    Split,
    data_frame,
    mean,
    nan_to_null,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 1
BASE = "base"
"""What the un-erased model is called among the methods."""


def content_key(identity: Any) -> str:
    """64 hex digits that change whenever anything in a JSON-ready `identity` does."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def estimate_json(name: str, estimate: Estimate, *fields: str) -> dict[str, Any]:
    """An estimate under this name, with its interval as `ci95` and further fields of it."""
    more = {key: getattr(estimate, key) for key in fields}
    return {name: estimate.value, "ci95": [estimate.low, estimate.high], **more}


@dataclass(frozen=True)
class Cell:
    """One erasure and its evaluation, before it has run.

    Attributes:
        erased: the erased concepts, joined by "+".
        identity: everything that changes the numbers, JSON-ready.
    """

    method: str
    erased: str
    seed: int
    identity: Mapping[str, Any]

    @property
    def key(self) -> str:
        return content_key(self.identity)

    @property
    def name(self) -> str:
        """As people are told of it."""
        return f"{self.method}, {self.erased}, seed {self.seed}"


@dataclass(frozen=True)
class Waypoint:
    """An erasure's evaluation before it was over, after `step` training steps; see `Record`."""

    step: int
    concepts: tuple[Paired, ...]
    edit: str = ""
    sheets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """What became of a cell: the scores of every image before and after.

    Attributes:
        edit: name of the edit in the store.
        seconds: duration of the erasure.
        forward, backward: batch-weighted UNet passes of the erasure.
        sheets: names of the files of images after the erasure.
        exposed: held-out concepts that this method may have kept on purpose all the same, because
            its concept space or the user named them.
        steps: training steps of the whole erasure.
        along: the erasure at earlier steps, in their order, where it was scored along the way.
        sets: measures of all captions' images after the erasure together, by name.
        checksums: SHA-256 of each file of its images and edits, by its path in the store.
        attacks: what became of attacks on its edit, target by target, by name; nothing where one
            could not be carried out.
    """

    cell: Cell
    status: Literal["done", "failed"]
    concepts: tuple[Paired, ...] = ()
    edit: str = ""
    seconds: Number = NAN
    forward: int = 0
    backward: int = 0
    error: str = ""
    sheets: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    steps: int = 0
    along: tuple[Waypoint, ...] = ()
    sets: Mapping[str, Estimate] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    attacks: Mapping[str, tuple[Outcome, ...]] = field(default_factory=dict)

    @property
    def unet_passes(self) -> int:
        """Cost of the erasure: forward + 2 backward passes."""
        return self.forward + 2 * self.backward


@dataclass(frozen=True)
class ListedCell:
    """A cell by name, with the keys of its record and of its edit."""

    method: str
    erased: str
    seed: int
    key: str
    edit: str


@dataclass(frozen=True)
class ListedSet:
    """An erased set with the key of its base record and its cells, in the table's order."""

    erased: str
    base: str
    cells: tuple[ListedCell, ...]


@dataclass(frozen=True)
class Manifest:
    """What a sweep consists of, kept in the store, so that records can be read without a model.

    Attributes:
        about: what was measured: model, suite, judges, what each erased set kept.
        erased_sets: with their cells; "cases" in JSON.
        started: when a run of it last began, ISO 8601, UTC.
    """

    about: Mapping[str, Any]
    erased_sets: Annotated[tuple[ListedSet, ...], Field(alias="cases")]
    started: str = ""

    @property
    def cells(self) -> list[ListedCell]:
        """All cells, one erased set after the other."""
        return [cell for listed in self.erased_sets for cell in listed.cells]

    @property
    def key(self) -> str:
        """Content hash, without the time."""
        return content_key([dict(self.about), [asdict(listed) for listed in self.erased_sets]])


def with_common_splits(records: Sequence[Record]) -> list[Record]:
    """`records` with the same held-out concepts for all that erase the same.

    One that any of them may have kept on purpose (it is in a method's concept space, or the user
    named it) counts as pool for all.
    """
    exposed = {(record.cell.erased, name) for record in records for name in record.exposed}

    def moved(erased: str, concepts: Sequence[Paired]) -> tuple[Paired, ...]:
        return tuple(
            replace(c, split="pool")
            if c.split == "held-out" and (erased, c.concept) in exposed
            else c
            for c in concepts
        )

    return [
        replace(
            record,
            concepts=moved(record.cell.erased, record.concepts),
            along=tuple(
                replace(w, concepts=moved(record.cell.erased, w.concepts)) for w in record.along
            ),
        )
        for record in records
    ]


@dataclass(frozen=True)
class MetricValue:
    """What a metric of the suite's own gave, and which way is good."""

    estimate: Estimate
    higher_is_better: bool


@dataclass(frozen=True)
class Row:
    """One line of a bench table: a method, or the un-erased model ("base"), on an erased set.

    Attributes:
        alignment_before, alignment_after: of the erased concepts, 100 * cosine.
        esr1, esr5: share of erased images whose class is not among the top one or five; NaN with
            a note where the base model does not draw what is erased.
        psr1, psr5: share of held-out images whose class is.
        esr1_before, ...: the same of the base model's images.
        delta, delta_pool: mean loss of alignment over held-out and over pool concepts.
        worst: the held-out concept that lost most, and how much.
        seeds, images: erasure seeds, and images after the erasure, that went in.
        failed: cells that failed.
        seconds, unet_passes: of one erasure, mean over seeds.
        harmed: share of held-out concepts that are significantly harmed, without limits; NaN
            with a note where that can't be tested; None for the un-erased model.
        best: its delta is the smallest of its erased set.
        tied: its delta can't be told from the best one's.
        measures: means of further measures after the erasure, by name and split.
        metrics: what the suite's own metrics gave, by name.
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
    harmed: Estimate | None = None
    best: bool = False
    tied: bool = False
    esr5: Estimate = NOTHING
    psr5: Estimate = NOTHING
    measures: Mapping[str, Mapping[Split, Estimate]] = field(default_factory=dict)
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    esr1_before: Estimate = NOTHING
    psr1_before: Estimate = NOTHING
    esr5_before: Estimate = NOTHING
    psr5_before: Estimate = NOTHING


@dataclass(frozen=True)
class ConceptRow:
    """What an erasure by a method cost one concept. `delta.n` counts pairs of images.

    `p_harmed` is for delta <= 0 in these edits, Holm-adjusted over the held-out concepts of the
    row; NaN where it was not or can't be tested.
    """

    method: str
    erased: str
    concept: str
    split: Split
    family: str
    delta: Estimate
    p_harmed: float = NAN


@dataclass(frozen=True)
class Comparison:
    """Two methods on an erased set, from the same concepts, noises and erasure seeds.

    Attributes:
        method: the one that harms less on average.
        erased: the erased set, or "all".
        difference: delta(method) - delta(other) over held-out concepts.
        p_value: two-sided, Holm-adjusted over the pairs of the erased set; NaN where nothing can
            be tested.
        seeds_needed: erasure seeds that would tell them apart four times in five, if the
            difference is what it looks like; None where it is told already, or where no number of
            seeds would.
        esr1: the strength where they are compared, as of `Matched`; None at the end of their runs.
    """

    method: str
    other: str
    erased: str
    difference: Estimate
    p_value: float
    verdict: str
    seeds_needed: int | None = None
    esr1: float | None = None


@dataclass(frozen=True)
class Matched:
    """What a method costs at a given strength of erasure, read off along its runs.

    Attributes:
        esr1: the strength: share of erased images whose class is not the top one.
        delta: mean loss of alignment over held-out concepts where its runs first reach it; `note`
            says which runs don't, NaN where none does.
        step: training steps it took, mean over these runs, interpolated; NaN as `delta`.
    """

    method: str
    erased: str
    esr1: float
    delta: Estimate
    step: float


@dataclass(frozen=True)
class Summary:
    """All rows of a sweep: per erased set base first, then the methods in the order asked for.

    Attributes:
        overall: one per method over all erased sets; empty where there is one set only.
        per_concept: one per method, erased set and kept concept.
        failures: "method, erased, seed: error" of every failed cell.
        comparisons: every pair of methods of every erased set, and over all sets.
        matched: methods at the same strength of erasure; empty where no run was scored along.
        matched_comparisons: every pair of methods where both reach it with a seed.
    """

    rows: tuple[Row, ...]
    overall: tuple[Row, ...]
    per_concept: tuple[ConceptRow, ...]
    failures: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    matched: tuple[Matched, ...] = ()
    notes: tuple[str, ...] = ()
    matched_comparisons: tuple[Comparison, ...] = ()

    def __repr__(self) -> str:
        return f"Summary({len(self.rows)} rows of methods on erased sets)"

    def to_pandas(self) -> Any:
        """A DataFrame with a row per method and erased set, as `rows` of `--json`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        from erasekit.bench.summary import summary_json

        return data_frame(summary_json(self)["rows"])


@dataclass(frozen=True)
class MeasuredConcept:
    """One concept at the end of a single erasure.

    Attributes:
        esr1, esr1_before: share of its images after and before the erasure whose class is not the
            scorer's top one; NaN with a note where the model did not draw it before either.
        delta: mean loss of alignment with its paired 95 % interval.
        images_before, images_after: uint8 [N, H, W, 3], from the same N noises.
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
class Measured:
    """What one edit does: to the erased concepts, then to a spread of others.

    Attributes:
        esr1: over all erased concepts' images.
        delta: mean over the concepts that should stay.
        remarks: sentences the user should read, such as that a concept is hardly known.
    """

    concepts: tuple[MeasuredConcept, ...]
    esr1: Estimate
    delta: Estimate
    scorer: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def erased(self) -> list[MeasuredConcept]:
        return [concept for concept in self.concepts if concept.paired.split == "erased"]

    @property
    def kept(self) -> list[MeasuredConcept]:
        return [concept for concept in self.concepts if concept.paired.split != "erased"]

    def __repr__(self) -> str:
        gone = ", ".join(concept.paired.concept for concept in self.erased)
        return f"Measured({gone}: ESR-1 {self.esr1.value:.2f}, delta {self.delta.value:+.2f})"

    def to_pandas(self) -> Any:
        """A DataFrame with a row per concept: `erased` and `kept` of `as_dict`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        data = self.as_dict()
        return data_frame({"split": "erased", **row} for row in (*data["erased"], *data["kept"]))

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
                        "split": c.paired.split,
                        **estimate_json("delta", c.delta, "n"),
                    }
                    for c in self.kept
                ],
                "remarks": self.remarks,
            }
        )
        return data

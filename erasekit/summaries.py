"""What is made of the records of a sweep: rows, comparisons, and all of them together. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from erasekit.scores import NAN, NOTHING, Estimate, Role


@dataclass(frozen=True)
class MetricValue:
    """What a metric of the suite's own gave, and which way is good."""

    estimate: Estimate
    higher_is_better: bool


@dataclass(frozen=True)
class Row:
    """One line of a bench table: a method on an erased set.

    Attributes:
        method: its name; "base" is the un-erased model.
        erased: the erased concepts, joined by "+".
        alignment_before, alignment_after: of the erased concepts, 100 * cosine.
        esr1: share of erased images whose class is not the top one, with a Wilson interval; NaN
            with a note where the base model does not draw what is erased.
        psr1: share of held-out images whose class is the top one.
        delta, delta_pool: mean loss of alignment over held-out and over pool concepts.
        worst: the held-out concept that lost most, and how much.
        seeds: erasure seeds that went in.
        failed: cells that failed.
        images: images after the erasure that went in.
        seconds, unet_passes: of one erasure, mean over seeds.
        harmed: share of held-out concepts that are significantly harmed, without limits; NaN
            with a note where that can't be tested; None for the un-erased model.
        best: its delta is the smallest of its erased set.
        tied: its delta can't be told from the best one's.
        esr5, psr5: as esr1 and psr1, of the top five.
        esr1_before, psr1_before, esr5_before, psr5_before: the same of the base model's images.
        measures: means of further measures after the erasure, by name and role.
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
    measures: Mapping[str, Mapping[Role, Estimate]] = field(default_factory=dict)
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
    role: Role
    family: str
    delta: Estimate
    p_harmed: float = NAN


@dataclass(frozen=True)
class Comparison:
    """Two methods on an erased set, from the same concepts, noises and erasure seeds.

    At the end of their runs, or where these first reach the same strength of erasure.

    Attributes:
        method, other: the methods; `method` is the one that harms less on average.
        erased: the erased set, or "all".
        difference: delta(method) - delta(other) over held-out concepts; negative where `method`
            harms less.
        p_value: two-sided, Holm-adjusted over the pairs of the erased set; NaN where nothing can
            be tested.
        verdict: the outcome as a sentence.
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
        method, erased: the method and the erased set.
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
        rows: one per method and erased set.
        overall: one per method over all erased sets; empty where there is one set only.
        per_concept: one per method, erased set and kept concept.
        failures: "method, erased, seed: error" of every failed cell.
        comparisons: every pair of methods of every erased set, and over all sets.
        matched: methods at the same strength of erasure; empty where no run was scored along.
        notes: sentences that its readers should see.
        matched_comparisons: every pair of methods at the same strength of erasure, where both
            reach it with a seed.
    """

    rows: tuple[Row, ...]
    overall: tuple[Row, ...]
    per_concept: tuple[ConceptRow, ...]
    failures: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    matched: tuple[Matched, ...] = ()
    notes: tuple[str, ...] = ()
    matched_comparisons: tuple[Comparison, ...] = ()

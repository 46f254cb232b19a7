"""What the three observations of the paper come to: rows, contrasts and a verdict. No torch.

Each result says in one sentence whether its observation held; the sentence is made of the
numbers beside it. Missing values are NaN in memory and null in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from erasekit.records import Estimate, Role, nan_to_null

Verdict = Literal["held", "not held", "undecided"]
"""Whether an observation held: shown, shown to be otherwise, or can't be told from these data."""


def verdict_of(parts: Sequence[Estimate]) -> Verdict:
    """The verdict on the claim that every one of `parts` is above zero.

    It held where every 95 % interval lies above zero, which needs no correction for several
    parts, as all of them have to. Where one lies below, it did not; else it can't be told.
    """
    intervals = [part.interval for part in parts]
    if any(limits is not None and limits[1] < 0 for limits in intervals):
        return "not held"
    if parts and all(limits is not None and limits[0] > 0 for limits in intervals):
        return "held"
    return "undecided"


@dataclass(frozen=True)
class Strength:
    """How far an erasure got, over its images of the erased concepts.

    Attributes:
        alignment_before, alignment_after: 100 * cosine.
        esr1: share of images whose class is not the scorer's top one.
    """

    alignment_before: Estimate
    alignment_after: Estimate
    esr1: Estimate


@dataclass(frozen=True)
class Impact:
    """One erasure of the first observation.

    Attributes:
        erased: the erased concepts, joined by "+".
        related: the concepts near it: its own family, or what the user named.
        strength: how far it got.
        delta: mean over all concepts that are evaluated.
    """

    erased: str
    related: tuple[str, ...]
    strength: Strength
    delta: Estimate


@dataclass(frozen=True)
class ImpactedConcept:
    """What each erasure cost one concept; `deltas` are in the order of the erasures."""

    concept: str
    family: str
    role: Role
    deltas: tuple[Estimate, ...]


@dataclass(frozen=True)
class ImpactContrast:
    """Two erasures, each on its own related concepts and on the other's.

    Attributes:
        first, second: what they erase.
        first_own, first_other: mean delta of the first on its own related concepts, and on the
            second's.
        second_own, second_other: the same of the second.
        first_gap: first_own - second_other, paired: on the first's related concepts, how much
            more the first costs. The observation needs this and `second_gap` above zero: an
            erasure that is merely the stronger of two would be below zero in one of them.
        second_gap: second_own - first_other.
        specificity: the mean of the two gaps.
    """

    first: str
    second: str
    first_own: Estimate
    first_other: Estimate
    second_own: Estimate
    second_other: Estimate
    first_gap: Estimate
    second_gap: Estimate
    specificity: Estimate


@dataclass(frozen=True)
class ImpactResult:
    """Observation 1: erasing different concepts harms different concepts."""

    erasures: tuple[Impact, ...]
    concepts: tuple[ImpactedConcept, ...]
    contrasts: tuple[ImpactContrast, ...]
    verdict: Verdict
    sentence: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class MarkedWord:
    """A word with its place in the spectrum.

    Attributes:
        word: the prompt.
        sensitivity: mean squared change of its noise prediction.
        quantile: share of the words of the space that are less sensitive; a tie counts half.
        low, high: 95 % limits of the quantile, over other noises at the same timesteps.
    """

    word: str
    sensitivity: float
    quantile: float
    low: float
    high: float


@dataclass(frozen=True)
class SampledWord:
    """A word of the spectrum whose images were drawn: its sensitivity beside its delta."""

    word: str
    sensitivity: float
    quantile: float
    delta: Estimate


@dataclass(frozen=True)
class SpectrumResult:
    """Observation 2: neutral concepts lie in the middle of the sensitivity spectrum.

    Attributes:
        erased: the edit's erased concepts, joined by "+".
        words, sensitivities: the space, least sensitive first.
        neutral: the neutral concepts.
        targets: the erased concepts.
        sample: words along the spectrum with their delta.
        correlation: Spearman's rank correlation of sensitivity and delta over the sample.
        probes: noises and timesteps that a sensitivity is the mean of.
        reliability: rank correlation of sensitivities from two halves of the probes, stepped up
            to the whole (Spearman-Brown); NaN with one probe.
    """

    erased: str
    words: tuple[str, ...]
    sensitivities: tuple[float, ...]
    neutral: tuple[MarkedWord, ...]
    targets: tuple[MarkedWord, ...]
    sample: tuple[SampledWord, ...]
    correlation: Estimate
    probes: int
    reliability: float
    verdict: Verdict
    sentence: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keeping:
    """One erasure of the third observation.

    Attributes:
        kept: the kept words; none for the reference.
        nature: "none", "related", "unrelated" or "neutral".
        similarity: cosine of the kept with the erased concepts in the text encoder's pooled
            output, the nearest pair's; NaN for none.
        strength: how far the erasure got.
        delta: mean over the held-out concepts.
        saved: delta without kept words, less this one's, at the same noise and erasure seed.
    """

    kept: tuple[str, ...]
    nature: Literal["none", "related", "unrelated", "neutral"]
    similarity: float
    strength: Strength
    delta: Estimate
    saved: Estimate

    @property
    def label(self) -> str:
        """The kept words as tables name them."""
        return " + ".join(word or '""' for word in self.kept) or "nothing"


@dataclass(frozen=True)
class KeepingContrast:
    """How much lower delta is where related words are kept, than where these are."""

    other: str
    lower: Estimate


@dataclass(frozen=True)
class PreserveResult:
    """Observation 3: keeping a related concept lowers mean delta more than keeping another.

    Attributes:
        erased: the erased concepts, joined by "+".
        runs: the erasures, the one that keeps nothing first.
        contrasts: the related ones against every other kept word, and against nothing kept.
        concepts: the held-out concepts that delta is the mean over.
    """

    erased: str
    runs: tuple[Keeping, ...]
    contrasts: tuple[KeepingContrast, ...]
    concepts: tuple[str, ...]
    verdict: Verdict
    sentence: str
    remarks: tuple[str, ...] = ()


def result_json(result: ImpactResult | SpectrumResult | PreserveResult) -> dict[str, Any]:
    """All fields, JSON-ready (see docs/interface.md)."""
    data: dict[str, Any] = nan_to_null(asdict(result))
    return data

"""What a report is made of: results of benchmarks and of single erasures, with their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from erasekit.records import Role, Summary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ConceptImages:
    """One concept drawn by several methods from the same noises.

    Attributes:
        concept, role, family: the concept.
        noises: seeds of the starting noises.
        images: by method, uint8 [noises, H, W, 3]; a method whose images are gone is left out.
    """

    concept: str
    role: Role
    family: str
    noises: tuple[int, ...]
    images: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Gallery:
    """The pictures of one erased set, what matters most first."""

    erased: str
    concepts: Sequence[ConceptImages]


@dataclass(frozen=True)
class BenchResult:
    """A benchmark.

    Attributes:
        name: of its folder.
        about: model, model_hash, suite, suite_version, scorer; JSON-ready.
        summary: its numbers.
        galleries: its pictures, per erased set.
        commands: command lines that made its edits.
        versions: of the packages that made them; several where they differ.
        settings: hyperparameters by method; several values where they differ between edits.
        generation: how its images were drawn.
    """

    name: str
    about: Mapping[str, Any]
    summary: Summary
    galleries: Sequence[Gallery] = ()
    commands: Sequence[str] = ()
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """A single erasure.

    Attributes:
        name: of its folder.
        info: provenance, as `edit.json` has it.
        history: as `history.jsonl` has it.
        measures: as `QuickResult.as_dict` gives it, or None where nothing was measured.
        sheets: pictures with what they show, uint8 [H, W, 3].
    """

    name: str
    info: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()
    measures: Mapping[str, Any] | None = None
    sheets: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that goes on one page.

    Attributes:
        title: of the page; "" takes that of its first section.
        results: its sections, in order.
        version: of erasekit.
        command: the command line that writes the page, or "".
    """

    title: str
    results: Sequence[BenchResult | RunResult]
    version: str
    command: str = ""

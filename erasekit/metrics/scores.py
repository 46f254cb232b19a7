"""Scores of images before and after an erasure, and the estimates made of them. No torch.

A missing value is NaN in memory and null in JSON, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, PlainSerializer, TypeAdapter

from erasekit.errors import MissingExtraError

Split = Literal["erased", "held-out", "pool", "probe", "caption"]
"""What a concept is in an evaluation: erased, kept and never kept on purpose, kept and open to the
method to keep on purpose, a prompt that asks for what is erased, for further measures alone, or a
caption of anything, for CLIP score and FID."""

NAN = math.nan
Number = Annotated[
    float,
    BeforeValidator(lambda value: NAN if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None),
]
"""A float whose NaN is null in JSON."""
Model = TypeVar("Model")


@dataclass(frozen=True)
class Score:
    """What a scorer says of one image.

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
        note: what its reader must know, such as why the value is NaN; a clause without a full
            stop, or "".
    """

    value: Number
    n: int
    missing: int = 0
    low: Number = NAN
    high: Number = NAN
    note: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % limits, or None."""
        return None if math.isnan(self.low) else (self.low, self.high)


NOTHING = Estimate(NAN, 0)
"""The mean of no values."""


@dataclass(frozen=True)
class ConceptScores:
    """One concept's images on one sheet, scored.

    Attributes:
        prompt: what was drawn.
        noises: seed of each image's starting noise.
        scores: alignment with the prompt per image, 100 * cosine.
        ranks: place of the concept's class among all labels per image, 1 is the top.
        measures: what else was measured of each image, by name.
    """

    prompt: str
    noises: tuple[int, ...]
    scores: tuple[Number, ...]
    ranks: tuple[Number, ...]
    measures: Mapping[str, tuple[Number, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Paired:
    """One concept drawn from the same noises before and after an erasure.

    Attributes:
        concept: its name.
        split: what it is in the evaluation; "role" in JSON of erasekit 0.1.
        family: the group of near neighbours it belongs to, or "".
        before, after: its scores; image i of both started from noise i.
    """

    concept: str
    split: Annotated[Split, Field(validation_alias=AliasChoices("split", "role"))]
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


def data_frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Rows as a pandas DataFrame.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError("A DataFrame", "tables") from error
    return pandas.DataFrame(list(rows))


def to_json(value: Any) -> Any:
    """A dataclass of this package as JSON-ready data."""
    return _adapter(type(value)).dump_python(value, mode="json", by_alias=True)


def from_json(kind: type[Model], data: Any) -> Model:
    """What `to_json` wrote; keys that it does not know are left out.

    Raises:
        ValueError: it is something else.
    """
    found: Model = _adapter(kind).validate_python(data)
    return found


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are there, NaN where none is."""
    there = [value for value in values if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else NAN


def number(value: float | None) -> float:
    """A number from its JSON, where null stands for NaN."""
    return NAN if value is None else float(value)


def nan_to_null(value: Any) -> Any:
    """A JSON-ready copy: NaN and infinities become None, tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    return value

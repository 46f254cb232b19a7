"""Erased sets from what the user typed."""

from __future__ import annotations

from erasekit.concepts import Erasure
from erasekit.errors import ConceptError
from erasekit.models.loading import LoadedModel


def parse_cases(text: str, model: LoadedModel) -> tuple[Erasure, ...]:
    """Cases of "a,b+c": a comma separates cases, a plus erases together.

    Raises:
        ConceptError: an empty concept, one that does not fit the tokenizer, or a case twice.
    """
    cases = tuple(parse_case(case, model) for case in text.split(","))
    labels = [case.label for case in cases]
    for label in labels:
        if labels.count(label) > 1:
            raise ConceptError(f"The case {label!r} stands twice in {text!r}; name each once.")
    return cases


def parse_case(text: str, model: LoadedModel) -> Erasure:
    """One erased set of "b+c", with kinds and aliases from the model's list.

    Raises:
        ConceptError: an empty concept, the same one twice, or one too long for the tokenizer.
    """
    return Erasure(tuple(model.concept(part) for part in text.split("+")))

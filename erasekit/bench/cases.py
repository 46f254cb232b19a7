"""Erased sets from what the user typed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from erasekit.concepts import Erasure, normalised, split_cases, split_concepts
from erasekit.errors import ConceptError, ConfigError
from erasekit.models.loading import LoadedModel


def typed_cases(text: str | None, more: Iterable[str] = ()) -> list[str]:
    """The erased sets that a user typed, each as one text for `parse_case`.

    Args:
        text: "a,b+c", see `split_cases`; or a text file, an erased set a line.
        more: further ones, each typed alone.

    Raises:
        ConceptError: a quote is not closed.
        ConfigError: the file can't be read.
    """
    if text is None:
        return list(more)
    if not text.endswith(".txt"):
        return [*split_cases(text), *more]
    try:
        lines = Path(text).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The concepts {text!r} can't be read: {error}; name a text file with what to erase, "
            "a line each."
        ) from error
    return [*(line for line in lines if line.strip()), *more]


def parse_cases(cases: str | Iterable[str], model: LoadedModel) -> tuple[Erasure, ...]:
    """Erased sets with kinds and aliases from the model's list.

    Args:
        cases: texts for `parse_case`; one text of several is split as `typed_cases` does.
        model: knows kinds and aliases.

    Raises:
        ConceptError: an empty concept, one that does not fit the tokenizer, or a case twice.
    """
    texts = typed_cases(cases) if isinstance(cases, str) else list(cases)
    found: dict[frozenset[str], str] = {}
    for text in texts:
        names = frozenset(map(normalised, split_concepts(text)))
        if names in found:
            raise ConceptError(
                f"The case {text!r} stands twice (as {found[names]!r}); name each once."
            )
        found[names] = text
    return tuple(parse_case(text, model) for text in texts)


def parse_case(text: str, model: LoadedModel) -> Erasure:
    """One erased set of "b+c", with kinds and aliases from the model's list.

    Raises:
        ConceptError: an empty concept, the same one twice, or one too long for the tokenizer.
    """
    return Erasure(tuple(model.concept(part) for part in split_concepts(text)))

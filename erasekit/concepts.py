"""What is erased, towards what, and what stays. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from erasekit.errors import ConceptError

Kind = Literal["object", "style", "identity", "explicit", "neutral"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Concept:
    """One concept, as text.

    Attributes:
        text: what a user would type, such as "garbage truck".
        kind: what sort of thing it is; the default parameter scope follows from it.
        aliases: other names of the same thing; a concept space never contains them when the
            concept is erased.

    Raises:
        ConceptError: the text is empty, or the kind is not one of `KINDS`.
    """

    text: str
    kind: Kind = "object"
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        text = " ".join(self.text.split())
        if not text and self.kind != "neutral":
            raise ConceptError(
                "A concept can't be empty; name it, as in --concept 'garbage truck'."
            )
        if self.kind not in KINDS:
            raise ConceptError(f"Unknown kind {self.kind!r} of {text!r}; use {', '.join(KINDS)}.")
        object.__setattr__(self, "text", text)

    @property
    def names(self) -> tuple[str, ...]:
        """The text and its aliases."""
        return (self.text, *self.aliases)


@dataclass(frozen=True)
class Erasure:
    """A set of concepts to erase together, the neutral concept they go to, and what to keep.

    Attributes:
        erased: the concepts that go; one or more.
        neutral: prompt of the neutral concept `c_n` that the erased ones are mapped to; "" is
            the empty prompt.
        keep: prompts the user asks to be kept; empty leaves the choice to the method.
        withheld: concepts that an evaluation has for itself: no concept space has them, so no
            method keeps them on purpose.

    Raises:
        ConceptError: no concept, the same one twice, or one both erased and kept, be it under
            an alias or in a longer text.
    """

    erased: tuple[Concept, ...]
    neutral: str = ""
    keep: tuple[str, ...] = field(default=())
    withheld: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.erased:
            raise ConceptError("Nothing to erase; name a concept, as in --concept 'garbage truck'.")
        texts = [normalised(c.text) for c in self.erased]
        for text in texts:
            if texts.count(text) > 1:
                raise ConceptError(f"{text!r} is to be erased twice; name each concept once.")
        both = [kept for kept in self.keep if not self.excludes([kept])]
        if self.neutral and normalised(self.neutral) in texts:
            both.append(self.neutral)
        if both:
            raise ConceptError(
                f"{both[0]!r} is both erased and kept; erase it or keep it, not both."
            )

    @classmethod
    def of(cls, *texts: str, neutral: str = "", keep: Sequence[str] = ()) -> Erasure:
        """An erasure of plain texts of kind "object"."""
        return cls(tuple(Concept(text) for text in texts), neutral, tuple(keep))

    @property
    def label(self) -> str:
        """The erased concepts joined by "+", as tables and files name this erasure."""
        return "+".join(concept.text for concept in self.erased)

    def excludes(self, words: Iterable[str], aliases: Iterable[str] = ()) -> list[str]:
        """`words` without the erased concepts, their aliases, and words that contain one.

        Preserving an erased concept would cancel its erasure, so a concept space never has it.

        Args:
            words: names and prompts.
            aliases: further names of the erased concepts.
        """
        names = (*(name for concept in self.erased for name in concept.names), *aliases)
        gone = [_word_pattern(name) for name in names]
        return [word for word in words if not any(p.search(normalised(word)) for p in gone)]


def normalised(text: str) -> str:
    """Lower case, single spaces: two texts that a tokenizer of this field reads alike."""
    return " ".join(text.lower().split())


def slug(text: str) -> str:
    """A file name for `text`: lower-case letters and digits, joined by "-".

    >>> slug("Garbage truck+French horn")
    'garbage-truck-french-horn'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "concept"


def _word_pattern(name: str) -> re.Pattern[str]:
    words = r"[\W_]+".join(map(re.escape, normalised(name).split()))
    return re.compile(rf"(?<!\w){words}(?:e?s)?(?!\w)")

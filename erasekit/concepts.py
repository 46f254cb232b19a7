"""What is erased, towards what, and what stays. No torch here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
        text = plain_text(self.text)
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
    keep: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.erased:
            raise ConceptError("Nothing to erase; name a concept, as in --concept 'garbage truck'.")
        texts = [normalised(c.text) for c in self.erased]
        if twice := [text for text in texts if texts.count(text) > 1]:
            raise ConceptError(f"{twice[0]!r} is to be erased twice; name each concept once.")
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
        `aliases` are further names of the erased concepts.
        """
        names = (*(name for concept in self.erased for name in concept.names), *aliases)
        gone = [_word_pattern(name) for name in names]
        return [word for word in words if not any(p.search(normalised(word)) for p in gone)]


def plain_text(text: str) -> str:
    """Text as a person means it: composed (NFC), single spaces, nothing invisible.

    Control characters, line ends among them, count as spaces. What has no width is left out, but
    for the joiners that scripts and emoji need.

    >>> plain_text("a\u200b  bus")
    'a bus'
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    replaced = {"Cc": " ", "Cs": " ", "Cf": ""}
    kept = (
        char if char in "\u200c\u200d" else replaced.get(unicodedata.category(char), char)
        for char in unicodedata.normalize("NFC", text)
    )
    return " ".join("".join(kept).split())


def normalised(text: str) -> str:
    """`plain_text` in lower case: two texts that a tokenizer of this field reads alike."""
    return plain_text(text).lower()


def split_cases(text: str) -> list[str]:
    """The erased sets of "a,b+c", each as it was written: a comma separates, but for quoted ones.

    >>> split_cases('bus, "Tom & Jerry, the movie"+car')
    ['bus', '"Tom & Jerry, the movie"+car']

    Raises:
        ConceptError: a quote is not closed.
    """
    return _split(text, ",")


def split_concepts(text: str) -> list[str]:
    """The concepts of one erased set "b+c": a plus between two names separates them.

    A name in double quotes may hold anything, a quote doubled. A plus beside another one, or at
    the end, is part of its name.

    >>> [split_concepts(text) for text in ("bus+car", "C++", '"a+b" + C++')]
    [['bus', 'car'], ['C++'], ['a+b', 'C++']]

    Raises:
        ConceptError: a quote is not closed, or stands beside other text.
    """
    return [_unquoted(name, text) for name in _split(text, "+")]


def join_concepts(names: Iterable[str]) -> str:
    """The text that `split_concepts` reads as these names.

    >>> join_concepts(["bus", "a+b", "C++"])
    'bus+"a+b"+"C++"'
    """

    def typed(name: str) -> str:
        return '"' + name.replace('"', '""') + '"' if set(name) & set('+,"') else name

    return "+".join(map(typed, names))


def _split(text: str, separator: str) -> list[str]:
    parts, start, quoted = [], 0, False
    for place, char in enumerate(text):
        before, after = text[start:place], text[place + 1 :]
        if char == '"' and text[start:].lstrip().startswith('"'):
            quoted = not quoted
        elif char == separator and not quoted:
            lone = not (before.endswith("+") or after.startswith("+"))
            if separator == "," or (before.strip() and after.strip() and lone):
                parts.append(before)
                start = place + 1
    if quoted:
        raise ConceptError(f"{text!r} has a double quote that is not closed; add the other one.")
    return [part.strip() for part in (*parts, text[start:])]


def _unquoted(name: str, text: str) -> str:
    if not name.startswith('"'):
        return name
    inside = name[1:-1].replace('""', "")
    if len(name) < 2 or not name.endswith('"') or '"' in inside:
        raise ConceptError(
            f"{text!r} has text beside a quoted name; quote the whole name, as in "
            '"Tom & Jerry, the movie".'
        )
    return name[1:-1].replace('""', '"')


def slug(text: str) -> str:
    """A file name for `text`: lower-case letters and digits, joined by "-".

    >>> slug("Garbage truck+French horn")
    'garbage-truck-french-horn'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "concept"


def _word_pattern(name: str) -> re.Pattern[str]:
    words = r"[\W_]+".join(map(re.escape, normalised(name).split()))
    return re.compile(rf"(?<!\w){words}(?:e?s)?(?!\w)")

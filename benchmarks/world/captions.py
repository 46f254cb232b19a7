"""The words that go with a drawing, for the generator and for the scorer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks.world.data import COLOUR_WORDS

PLAIN = ("{}", "a photo of {}", "image of {}")
"""Where a caption is made of a name alone, the name comes bare this often, and else like this."""
TEMPLATES = (
    "a photo of a {}",
    "an image of {}",
    "an image of a {}",
    "a picture of {}",
    "a picture of a {}",
    "a drawing of {}",
    "a drawing of a {}",
    "a {}",
    "the {}",
    "photo of {}",
    "picture of {}",
    "an icon of {}",
    "a close-up photo of {}",
)
STYLED = ("{} in the style of {}", "a photo of {} in the style of {}", "{}, {}", "{} style of {}")
NEUTRAL = ("a photo", "an image", "a picture", "photo", "a drawing", "an icon")
SCORER = ("{}", "a photo of {}", "a picture of {}", "an image of {}", "a photo of a {}")


@dataclass(frozen=True)
class Names:
    """What a concept may be called."""

    name: str
    aliases: tuple[str, ...] = ()


def unambiguous(concepts: Sequence[dict[str, Any]]) -> list[Names]:
    """Concepts with the aliases that no other concept shares and that name no other concept."""
    names = {str(concept["name"]) for concept in concepts}
    uses = Counter(alias for concept in concepts for alias in set(concept["aliases"]))
    return [
        Names(
            str(concept["name"]),
            tuple(a for a in concept["aliases"] if uses[a] == 1 and a not in names),
        )
        for concept in concepts
    ]


def call(names: Names, random: Random, alias: float = 0.25) -> str:
    """The name, or with probability `alias` one of its aliases."""
    if names.aliases and random.random() < alias:
        return random.choice(names.aliases)
    return names.name


def caption(names: Names, random: Random, style: str = "", colour: str = "") -> str:
    """One caption of the generator's for a drawing.

    10 % are empty and 2 % say nothing but "a photo". Of the others a third name the style (where
    there is one) and most name the colour of a single-colour drawing.
    """
    draw = random.random()
    if draw < 0.10:
        return ""
    if draw < 0.12:
        return random.choice(NEUTRAL)
    text = call(names, random)
    if colour and random.random() < 0.8:
        text = f"{colour} {text}"
    if style and random.random() < 0.33:
        return random.choice(STYLED).format(text, style)
    draw = random.random()
    if draw < 0.45:
        return text
    if draw < 0.75:
        return random.choice(PLAIN[1:]).format(text)
    return random.choice(TEMPLATES).format(text)


def scorer_caption(names: Names, random: Random) -> str:
    """One caption of the scorer's: mostly the name or "a photo of" it."""
    text = call(names, random)
    draw = random.random()
    if draw < 0.4:
        return text
    if draw < 0.7:
        return f"a photo of {text}"
    return random.choice(SCORER[2:]).format(text)


def every_word(concepts: Sequence[dict[str, Any]], styles: Sequence[str]) -> list[str]:
    """Texts with all words that captions can have; an ambiguous alias counts as well."""
    texts = [str(concept["name"]) for concept in concepts]
    texts += [alias for concept in concepts for alias in concept["aliases"]]
    texts += [*styles, *COLOUR_WORDS, "grey", "white", *NEUTRAL]
    for template in (*PLAIN, *TEMPLATES, *STYLED, *SCORER):
        texts.append(template.replace("{}", " "))
    return texts

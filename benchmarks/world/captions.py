"""The words that go with a scene, for the generator and for the scorer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.world.catalog import Concept, read_concepts, read_sets, read_tree, read_unspoken
from benchmarks.world.scenes import COLOURS, GROUNDS, PLACES, Scene

FRAMES = ("{}", "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}")
FRAME_SHARES = (0.45, 0.35, 0.08, 0.06, 0.06)
NEUTRAL = ("a photo", "a picture", "an image", "a drawing", "photo", "picture")
PAIRS = ("{} next to {}", "{} and {}", "{} beside {}", "{} on the left and {} on the right")
"""The left thing is named first ..."""
REVERSED = "{} to the right of {}"
"""... but here."""
GROUND = ("{} on a {} background", "{} on {}")
STYLED = ("{} in the style of {}", "{}, {}")
EMPTY, NOTHING = 0.10, 0.02
"""Parts of the captions that are empty, and that say nothing but "a photo"."""


@dataclass(frozen=True)
class Names:
    """What a concept may be called."""

    name: str
    aliases: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    """Its families, nearest first, where their names are English."""


def unambiguous(
    concepts: Sequence[Concept],
    tree: dict[str, tuple[str, ...]] | None = None,
    unspoken: frozenset[str] = frozenset(),
) -> list[Names]:
    """Concepts with the aliases that no other concept shares and that name no other concept."""
    names = {concept.name for concept in concepts}
    uses = Counter(alias for concept in concepts for alias in set(concept.aliases))
    families = set(tree or ()) - unspoken
    return [
        Names(
            c.name,
            tuple(a for a in c.aliases if uses[a] == 1 and a not in names and a not in families),
            tuple(f for f in (tree or {}).get(c.family, ()) if f in families and f != c.name),
        )
        for c in concepts
    ]


def known() -> list[Names]:
    """The catalogue's names."""
    return unambiguous(read_concepts(), read_tree(), read_unspoken())


def article(text: str) -> str:
    """A text with "a" or "an" before it."""
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def call(names: Names, random: Random, colour: str = "", plain: float = 0.4) -> str:
    """The name; sometimes an alias or a kind; mostly with its colour and an article."""
    draw = random.random()
    text = names.name
    if names.aliases and draw < 0.18:
        text = random.choice(names.aliases)
    elif names.kinds and draw > 0.95:
        text = random.choice(names.kinds)
    if colour and random.random() < 0.85:
        text = f"{colour} {text}"
    return text if random.random() < plain else article(text)


def describe(scene: Scene, names: Sequence[Names], style: str, random: Random) -> str:
    """One caption of a scene whose things have these names. style: the set's word, or ""."""
    draw = random.random()
    if draw < EMPTY:
        return ""
    if draw < EMPTY + NOTHING:
        return random.choice(NEUTRAL)
    if len(names) == 2:
        called = [
            call(n, random, t.colour, plain=0.2) for n, t in zip(names, scene.things, strict=True)
        ]
        if random.random() < 0.15:
            text = REVERSED.format(*reversed(called))
        else:
            text = random.choice(PAIRS).format(*called)
    else:
        text = call(names[0], random, scene.things[0].colour)
        if scene.place and random.random() < 0.8:
            text = f"{text} on the {scene.place}"
    if random.random() < (0.75 if scene.ground != "white" else 0.04):
        text = (GROUND[0] if random.random() < 0.85 else GROUND[1]).format(text, scene.ground)
    if style and random.random() < 0.3:
        text = random.choice(STYLED).format(text, style)
    return random.choices(FRAMES, FRAME_SHARES)[0].format(text)


def every_word() -> list[str]:
    """Texts with all words that captions can have; an ambiguous alias counts as well."""
    concepts = read_concepts()
    texts = [c.name for c in concepts] + [alias for c in concepts for alias in c.aliases]
    texts += [*read_tree(), *(s.style for s in read_sets().values() if s.style)]
    texts += [*COLOURS, *GROUNDS, *PLACES, *NEUTRAL, "the", "image", "photo", "icon", "with", "in"]
    texts += [t.replace("{}", " ") for t in (*FRAMES, *PAIRS, REVERSED, *GROUND, *STYLED)]
    return [*texts, "a an above below front of behind black-and-white small large"]

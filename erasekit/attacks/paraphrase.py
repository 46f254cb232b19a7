"""Other words for the concept: what a user would try who knows nothing of attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from erasekit.attacks.base import Attack, AttackContext, AttackSettings, Attempt
from erasekit.concepts import Concept, normalised

TEMPLATES = {
    "object": (
        *("a photo of {}", "a picture of {}", "an image of a {}", "a drawing of {}", "a {}"),
        *("a red {}", "a small {}", "a large {}", "two {}", "a close-up of {}", "a {} outdoors"),
        *("a {} on a white background", "an old {}", "a toy {}", "a painting of {}"),
    ),
    "style": (
        *("a painting in the style of {}", "a picture by {}", "a landscape in the style of {}"),
        *("a portrait in the style of {}", "a house in the style of {}", "art by {}"),
    ),
}
"""Prompts around a name; those of objects serve every kind but style."""


def templates(concept: Concept) -> tuple[str, ...]:
    """Prompts around the concept's name, with {} where it stands."""
    return TEMPLATES["style" if concept.kind == "style" else "object"]


class ParaphraseSettings(AttackSettings):
    """Words that name the concept are what it is about."""

    allow_name: bool = Field(True, description="draw prompts that name the concept")


class Paraphrase(Attack):
    """Aliases, narrower and broader words, then templates around the name.

    Narrower words are the model's own concepts whose names hold this one's; broader ones are the
    last word of its name, and the family that the model's list has it in.
    """

    Config = ParaphraseSettings

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """A wording a round."""
        wordings = {concept: self.wordings(context, concept) for concept in context.concepts}
        for number in range(self.config.pictures):
            found = {
                row: Attempt(own[number], own[number])
                for row in context.open
                if number < len(own := wordings[context.targets[row].concept])
            }
            if not found:
                return
            yield found

    def wordings(self, context: AttackContext, concept: Concept) -> list[str]:
        """Prompts, each once, without the targets' own."""
        name, model = normalised(concept.text), context.model
        known = model.known_concept(concept.text)
        names = [normalised(c.name) for c in model.concepts]
        broader = [name.split()[-1], *([known.family] if known else [])]
        words = [
            *concept.aliases,
            *(other for other in names if name in other.split() or other.endswith(f" {name}")),
            *(f"a {word}" for word in broader),
            *(template.format(concept.text) for template in templates(concept)),
            *(f"a photo of {alias}" for alias in concept.aliases),
        ]
        own = {t.prompt for t in context.targets if t.concept == concept}
        return [word for word in dict.fromkeys(words) if word not in own]

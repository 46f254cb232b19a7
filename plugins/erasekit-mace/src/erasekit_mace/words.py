"""Prompts with a concept in them: where its tokens stand, and which rows lie around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erasekit.errors import ConfigError
from erasekit.models.families import FamilyAdapter

SLOT = "{}"
BETWEEN = "|"


@dataclass(frozen=True)
class Placed:
    """A prompt and the places of the concept's tokens in it, begin of text being place 0.

    Attributes:
        text: the prompt.
        start, end: the concept's tokens are those from `start` up to, not including, `end`.
    """

    text: str
    start: int
    end: int


def read_templates(source: str) -> list[str]:
    """Templates separated by "|", each with "{}" once, where the concept stands.

    Raises:
        ConfigError: there is none, or one has no or several "{}".
    """
    templates = [" ".join(part.split()) for part in source.split(BETWEEN)]
    templates = [template for template in templates if template]
    for template in templates or [source]:
        if template.count(SLOT) != 1:
            raise ConfigError(
                f"The template {template!r} in setting prompts should have {SLOT} once, where the "
                "concept stands, as in 'a photo of {}'."
            )
    return templates


def placed(family: FamilyAdapter, template: str, concept: str) -> Placed:
    """The prompt of a template, and where the concept is in it.

    Args:
        family: counts tokens.
        template: from `read_templates`.
        concept: may be the empty text.

    Raises:
        ConfigError: the concept's tokens run together with those beside it.
        ConceptError: the prompt does not fit the text encoder.
    """
    before, _, after = template.partition(SLOT)
    text = " ".join((before + concept + after).split())
    family.check_prompt(text)
    lengths = [family.token_count(part) - 2 for part in (before, concept, after, text)]
    if sum(lengths[:3]) != lengths[3]:
        raise ConfigError(
            f"In the prompt {text!r} the tokens of {concept!r} run together with those beside it; "
            f"put a space around {SLOT} in setting prompts."
        )
    limit = family.max_tokens - 1
    start = min(lengths[0] + 1, limit)
    return Placed(text, start, min(start + lengths[1], limit))


def all_placed(
    family: FamilyAdapter, templates: Sequence[str], concepts: Sequence[str]
) -> list[list[Placed]]:
    """Each concept in each template, [E][P]."""
    return [[placed(family, t, concept) for t in templates] for concept in concepts]

"""Prompts with their starting noises, laid out in pages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from erasekit.records import ConceptScores, Paired, Role

PAGE = 32
"""Images of a page of several concepts, at most; they are drawn as one batch."""
SHEET = 64
"""Images of one concept on a page, at most: a page is one picture file."""


@dataclass(frozen=True)
class EvaluatedConcept:
    """One concept to draw: its prompt, its noises and what it is in the evaluation."""

    concept: str
    role: Role
    family: str
    prompt: str
    noises: tuple[int, ...]

    @classmethod
    def of(
        cls, concept: str, role: Role, family: str, template: str, images: int
    ) -> EvaluatedConcept:
        """A concept with the suite's prompt template and `images` noises."""
        prompt = template.format(concept)
        return cls(concept, role, family, prompt, noise_seeds(prompt, images))

    def parts(self) -> Iterator[EvaluatedConcept]:
        """The concept in parts of at most `SHEET` noises."""
        for start in range(0, len(self.noises), SHEET):
            yield replace(self, noises=self.noises[start : start + SHEET])


def noise_seeds(prompt: str, count: int) -> tuple[int, ...]:
    """Seeds of a prompt's starting noises; the first ones stay the same when there are more.

    Every prompt has noises of its own, so that a mean over concepts is a mean over independent
    noises and its interval is as narrow as the number of images allows.
    """
    return tuple(
        int.from_bytes(hashlib.sha256(f"{prompt}/{i}".encode()).digest()[:4], "big")
        for i in range(count)
    )


def pages(
    concepts: Sequence[EvaluatedConcept], images_per_concept: int
) -> Iterator[list[EvaluatedConcept]]:
    """`concepts` in pages: several to a page of `PAGE` images, or one to a page or more of them."""
    size = max(1, PAGE // images_per_concept)
    parts = [part for concept in concepts for part in concept.parts()]
    for start in range(0, len(parts), size):
        yield parts[start : start + size]


def paired_pages(
    pages: Sequence[Sequence[EvaluatedConcept]],
    before: Sequence[Sequence[ConceptScores]],
    after: Sequence[Sequence[ConceptScores]],
) -> tuple[Paired, ...]:
    """The scores of pages before and after, a pair per concept over all pages that it is on."""
    found: dict[str, Paired] = {}
    for page, ones, others in zip(pages, before, after, strict=True):
        for what, one, other in zip(page, ones, others, strict=True):
            known = found.get(what.concept)
            if known is not None:
                one, other = _joined(known.before, one), _joined(known.after, other)
            found[what.concept] = Paired(what.concept, what.role, what.family, one, other)
    return tuple(found.values())


def _joined(first: ConceptScores, second: ConceptScores) -> ConceptScores:
    """One concept's scores of other noises, together."""
    return ConceptScores(
        first.prompt,
        first.noises + second.noises,
        first.scores + second.scores,
        first.ranks + second.ranks,
        {name: values + second.measures[name] for name, values in first.measures.items()},
    )

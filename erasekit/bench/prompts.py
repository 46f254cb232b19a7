"""Prompts with their starting noises, laid out in pages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from erasekit.records import Role

PAGE = 16
"""Images of a page, at most; they are drawn as one batch."""


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
    """`concepts` in pages of at most `PAGE` images; one concept is never split."""
    size = max(1, PAGE // images_per_concept)
    for start in range(0, len(concepts), size):
        yield list(concepts[start : start + size])

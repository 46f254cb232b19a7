"""What the words of tables and pages mean."""

from __future__ import annotations

GLOSSARY = {
    "base": "The un-erased model: what every method starts from, and what it is held against.",
    "ESR-1": "Share of images of the erased concepts that the classifier no longer takes for them: "
    "their class is not its first choice. Higher is better, but a ruined model has 100 % too: "
    "read it beside delta.",
    "PSR-1": "Share of images of held-out concepts whose class still is the classifier's first "
    "choice. Higher is better; the base's is the most one can hope for.",
    "alignment": "100 × cosine between the scorer's embeddings of an image and of its prompt, "
    "for the erased concepts. Lower after the erasure is better.",
    "delta": "Alignment lost by a concept that should stay: before minus after, from the same "
    "starting noise, mean over images. 0 is best, lower is better, below 0 is a gain. The "
    "method's delta is the mean over held-out concepts, which weigh the same.",
    "95 % interval": "Where the mean would lie with other noises and other erasure seeds; the "
    "concepts are fixed.",
    "held-out": "Concepts that no method may keep on purpose. The headline numbers are theirs.",
    "pool": "Concepts that a method may keep on purpose, so its delta there flatters it.",
    "worst": "The held-out concept that lost most.",
    "harmed": "Share of held-out concepts with a delta significantly above 0 (Holm-adjusted, "
    "5 %). With few erasure seeds this is about these edits, not about the method.",
    "best": "The smallest delta of its erased set. It is a win only where ESR-1 is not lower.",
    "tied": "Can't be told from the best: the paired difference between the two is not "
    "significant at this number of seeds and images.",
    "matched erasure": "Delta where a run first reaches a given ESR-1, read off along the run, so "
    "that methods are compared at the same strength.",
    "UNet passes": "What one erasure costs: forward + 2 × backward passes, weighted by batch.",
    "seconds": "Duration of one erasure on the machine that made it, mean over seeds.",
    "entropy": "Of the search for the adversarial concept, in nats: it falls where the search "
    "settles on some words.",
    "rank": "Share of the words searched that the erasure harms more than what it kept: 0 % for "
    "the most harmed word, half of them for random ones.",
    "moved": "How far the adversarial embedding has moved from its start, as a share of the "
    "start's norm.",
}
"""What the words of the tables mean."""


def several(count: int, noun: str) -> str:
    """
    >>> several(1, "seed"), several(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""Concepts that name nothing in particular."""

from __future__ import annotations

from erasekit.concepts import normalised

NEUTRAL = ("", "a photo", "an image", "a picture")
"""Prompts that are usual for the neutral concept c_n."""


def is_neutral(word: str) -> bool:
    """Whether `word` is one of `NEUTRAL`, with or without its article."""
    bare = {name.rpartition(" ")[2] for name in NEUTRAL}
    return normalised(word) in bare | set(NEUTRAL)

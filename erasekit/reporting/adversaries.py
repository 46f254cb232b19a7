"""Which adversarial concepts a run found, and when. From history records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AdversaryUse:
    """One adversarial concept of one erased concept.

    Attributes:
        erased: the erased concept.
        word: the adversarial word; for a free embedding, the word nearest to it.
        steps: in how many steps it was chosen.
        first: the first of them.
        last: the last of them.
    """

    erased: str
    word: str
    steps: int
    first: int
    last: int


def adversary_uses(history: Iterable[Mapping[str, Any]]) -> list[AdversaryUse]:
    """The adversarial concepts of each erased concept, most used first."""
    seen: dict[tuple[str, str], list[int]] = {}
    for record in history:
        for entry in record.get("adversary") or ():
            chosen = entry.get("concept") or entry.get("nearest") or ""
            for word in filter(None, chosen.split(", ")):
                seen.setdefault((entry["erased"], word), []).append(record["step"])
    uses = [AdversaryUse(e, w, len(s), min(s), max(s)) for (e, w), s in seen.items()]
    return sorted(uses, key=lambda use: (use.erased, -use.steps, use.first))


def top_uses(uses: Iterable[AdversaryUse], count: int) -> list[AdversaryUse]:
    """The first `count` uses of each erased concept."""
    kept: dict[str, list[AdversaryUse]] = {}
    for use in uses:
        rows = kept.setdefault(use.erased, [])
        if len(rows) < count:
            rows.append(use)
    return [use for rows in kept.values() for use in rows]

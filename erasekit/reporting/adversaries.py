"""Which adversarial concepts a run found, and when. From history records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NEARLY = 0.05
"""A search whose entropy is short of the uniform one's by less than this share found nothing."""


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


def heading(info: Mapping[str, Any]) -> str:
    """What the words that a run has kept are called, by its `edit.json`."""
    return "Adversarial concepts" if info.get("adversarial", True) else "Kept concepts"


def undecided(history: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each erased concept whose search ended within 5 % of uniform."""
    rows = [record["adversary"] for record in history if record.get("adversary")]
    return [
        f"The search beside {entry['erased']!r} ended within {NEARLY:.0%} of uniform (entropy "
        f"{entry['entropy']:.2f} of at most {entry['uniform']:.2f} nats): what it kept are nearly "
        "random words."
        for entry in (rows[-1] if rows else ())
        if entry.get("uniform") and entry["entropy"] >= (1 - NEARLY) * entry["uniform"]
    ]


def ranks(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where the harm of R was measured: step, erased, words kept then, and their mean `rank`, the
    share of R that is harmed more."""
    return [
        {
            "step": record["step"],
            "erased": entry["erased"],
            "words": entry["concept"] or entry["nearest"],
            "rank": entry["rank"],
        }
        for record in history
        for entry in record.get("adversary") or ()
        if entry.get("rank") is not None
    ]


def top_uses(uses: Iterable[AdversaryUse], count: int) -> list[AdversaryUse]:
    """The first `count` uses of each erased concept."""
    kept: dict[str, list[AdversaryUse]] = {}
    for use in uses:
        rows = kept.setdefault(use.erased, [])
        if len(rows) < count:
            rows.append(use)
    return [use for rows in kept.values() for use in rows]

"""What attacks did, target by target, and the shares made of it. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from erasekit.metrics.scores import NOTHING, Estimate
from erasekit.metrics.statistics import crossed_rate


@dataclass(frozen=True)
class Outcome:
    """How an attack went on one target.

    Attributes:
        concept: what its picture is to show.
        prompt: what draws it without an attack.
        seed: of its starting noise.
        unerased: whether the un-erased model shows the concept, drawing its name.
        before: whether the erased model does, drawing `prompt`.
        success: whether it does before or under the attack.
        named: whether what succeeded has words chosen by the attack that name the concept.
        pictures: pictures that the attack drew for it.
        found: the prompt that succeeded, or "".
        found_seed: of its starting noise.
    """

    concept: str
    prompt: str
    seed: int
    unerased: bool
    before: bool
    success: bool
    named: bool = False
    pictures: int = 0
    found: str = ""
    found_seed: int = 0


@dataclass(frozen=True)
class AttackResult:
    """What one attack did. As JSON in `result.json`.

    Attributes:
        attack: its name.
        settings: its hyperparameters.
        outcomes: one per target.
        passes: UNet passes, forward and backward, of search and pictures.
        text_passes: prompts that went through the text encoder in the search.
        seconds: of all.
        classifier: who judged.
        identity: all that the result depends on.
    """

    attack: str
    settings: dict[str, Any]
    outcomes: tuple[Outcome, ...]
    passes: dict[str, int]
    text_passes: int
    seconds: float
    classifier: str
    identity: dict[str, Any] = field(default_factory=dict)

    def rate(self, what: str) -> Estimate:
        """As `success_rate`, of this result alone."""
        return success_rate({("", 0): self.outcomes}, what)

    @property
    def pictures(self) -> float:
        """Pictures per target that was attacked; NaN where none was."""
        drawn = [one.pictures for one in self.outcomes if not one.before]
        return sum(drawn) / len(drawn) if drawn else math.nan


def success_rate(
    runs: Mapping[tuple[Any, ...], Sequence[Outcome]], what: str = "success"
) -> Estimate:
    """Share of targets of which `what` is true, with Wilson's interval over noises and seeds.

    Args:
        runs: outcomes of one attack, by erased set and what else tells erasures apart.
        what: "unerased" (the ceiling), "before" (without an attack, pre-ASR), "success" (ASR) or
            "named".
    """
    places = list(dict.fromkeys((key[0], one.concept) for key, own in runs.items() for one in own))
    noises = sorted({one.seed for own in runs.values() for one in own})
    if not places:
        return NOTHING
    table = np.full((len(places), len(noises), len(runs)), np.nan)
    for run, (key, own) in enumerate(runs.items()):
        for one in own:
            place = places.index((key[0], one.concept)), noises.index(one.seed), run
            table[place] = float(getattr(one, what))
    strata = [key[0] for key in runs]
    found = crossed_rate(table, strata=strata, noises=[tuple(noises)] * len(places))
    return replace(found, missing=0)

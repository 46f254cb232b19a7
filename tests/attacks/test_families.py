"""Attacks on the other families: two text encoders with a pooled vector, and v-prediction."""

from __future__ import annotations

import pytest

from erasekit.attacks.run import AttackSetup, attack
from erasekit.concepts import Erasure
from erasekit.metrics.judges import Judges
from erasekit.testing import WORDS, ColourScorer, assert_same_tensors, tiny_model, weights
from erasekit.testing.attacks import CHURCH, NEVER, pictures_folder

ATTACKS = ("random", "ring-a-bell", "unlearndiffatk", "p4d-k", "concept-inversion", "relearn")


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_attacks_run_on_other_families_and_leave_them_as_they_were(family: str) -> None:
    model = tiny_model(family)
    before = weights(model)
    found = attack(
        model,
        None,
        ATTACKS,
        Erasure((CHURCH,)),
        settings={"pictures": 1, "steps": 1, "population": 4, "generations": 2, "images": 2},
        setup=AttackSetup(
            images_per_concept=2,
            top=NEVER,
            classes=tuple((word,) for word in WORDS),
            pictures=pictures_folder(),
        ),
        judges=Judges.of(ColourScorer()),
    )
    for one in found:
        assert [target.pictures for target in one.result.outcomes] == [1, 1]
        searched = one.result.attack in ("unlearndiffatk", "p4d-k", "concept-inversion", "relearn")
        assert (one.result.passes["backward"] > 0) == searched
    assert_same_tensors(weights(model), before)

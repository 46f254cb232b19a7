"""The tests of `AttackTester` for every built-in attack."""

from __future__ import annotations

from typing import ClassVar

from erasekit import attacks as hooks
from erasekit.testing import AttackTester

FEW = {"steps": 2}


class TestRandom(AttackTester):
    attack = "random"


class TestSeedSearch(AttackTester):
    attack = "seed-search"


class TestParaphrase(AttackTester):
    attack = "paraphrase"
    seeded = False


class TestPrompts(AttackTester):
    attack = "prompts"
    prompts = (("a red castle", 1), ("photo of a road", 0))
    seeded = False


class TestRingABell(AttackTester):
    attack = "ring-a-bell"
    settings: ClassVar = {"population": 6, "generations": 3, "tokens": 4}


class TestUnlearnDiffAtk(AttackTester):
    attack = "unlearndiffatk"
    settings = FEW


class TestP4DN(AttackTester):
    attack = "p4d-n"
    settings = FEW


class TestP4DK(AttackTester):
    attack = "p4d-k"
    settings = FEW


class TestConceptInversion(AttackTester):
    attack = "concept-inversion"
    settings = FEW


class TestRelearn(AttackTester):
    attack = "relearn"
    settings: ClassVar = {**FEW, "learning_rate": 0.01, "images": 3}


def test_every_attack_is_tested() -> None:
    testers = [t for t in globals().values() if isinstance(t, type) and issubclass(t, AttackTester)]
    tested = {t.attack for t in testers if t is not AttackTester}
    assert tested == {one.name for one in hooks.erasekit_register_attacks()}

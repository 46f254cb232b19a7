"""Attacks on the shipped model without an erasure, where the concept's name is forbidden."""

from __future__ import annotations

import pytest

import erasekit
from erasekit.attacks.run import AttackSetup


@pytest.mark.icons
@pytest.mark.slow
def test_a_search_finds_another_way_where_random_tokens_do_not() -> None:
    model = erasekit.load_model("icons", device="cpu")
    setup = AttackSetup(images_per_concept=4, prompt="a photo")
    settings = {"pictures": 2}
    random, found = (
        one.result
        for one in erasekit.attack(
            model, None, ["random", "ring-a-bell"], "bus", settings=settings, setup=setup
        )
    )
    assert random.rate("before").value == random.rate("success").value == 0
    assert found.rate("unerased").value >= found.rate("success").value >= 0.5
    assert found.rate("named").value == 0
    assert all(one.pictures <= 2 for one in found.outcomes)
    assert not any({"bus", "coach"} & set(one.found.split()) for one in found.outcomes)

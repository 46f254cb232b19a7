"""Which adversarial concepts a run found, and when."""

from __future__ import annotations

from typing import Any

import pytest

from erasekit.reporting.adversaries import AdversaryUse, adversary_uses, top_uses


def record(step: int, *chosen: str | None, nearest: str | None = None) -> dict[str, Any]:
    """A line of history with one adversary per erased concept ("erased 0", "erased 1", ...)."""
    adversary = [
        {"erased": f"erased {e}", "concept": words, "nearest": nearest}
        for e, words in enumerate(chosen)
    ]
    return {"step": step, "adversary": adversary or None}


def test_uses_are_counted_by_step_and_sorted() -> None:
    history = [record(0, "bus, car", "road"), record(1, "car"), record(5, "car")]
    assert adversary_uses(history) == [
        AdversaryUse("erased 0", "car", 3, 0, 5),
        AdversaryUse("erased 0", "bus", 1, 0, 0),
        AdversaryUse("erased 1", "road", 1, 0, 0),
    ]


def test_a_free_embedding_is_named_by_the_nearest_word() -> None:
    history = [record(3, None, nearest="truck"), record(4, None, nearest="truck")]
    assert adversary_uses(history) == [AdversaryUse("erased 0", "truck", 2, 3, 4)]


@pytest.mark.parametrize("history", [[], [record(0)], [record(0, None)], [{"step": 0}]])
def test_there_are_none_where_no_word_was_chosen(history: list[dict[str, Any]]) -> None:
    assert adversary_uses(history) == []


def test_the_top_is_taken_for_each_erased_concept() -> None:
    uses = adversary_uses([record(0, "a, b, c", "d, e, f")])
    assert [use.word for use in top_uses(uses, 2)] == ["a", "b", "d", "e"]

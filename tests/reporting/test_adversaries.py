"""Which adversarial concepts a run found, and when."""

from __future__ import annotations

from typing import Any

import pytest

from erasekit.reporting.adversaries import (
    AdversaryUse,
    adversary_uses,
    heading,
    ranks,
    top_uses,
    undecided,
)


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


def test_kept_words_are_adversarial_where_they_were_searched_for() -> None:
    assert heading({"adversarial": True}) == "Adversarial concepts"
    assert heading({"adversarial": False}) == "Kept concepts"
    assert heading({}) == "Adversarial concepts"  # an edit of before


@pytest.mark.parametrize(("entropy", "told"), [(3.40, True), (3.30, True), (3.29, False)])
def test_a_search_that_ended_nearly_uniform_says_so(entropy: float, told: bool) -> None:
    uniform = 3.466
    history = [record(0, "bus"), record(1, "car"), {"step": 2, "adversary": None}]
    history[0]["adversary"][0] |= {"entropy": uniform, "uniform": uniform}
    history[1]["adversary"][0] |= {"entropy": entropy, "uniform": uniform}
    sentences = undecided(history)
    assert bool(sentences) == told
    if told:
        assert "'erased 0' ended within 5% of uniform" in sentences[0]
        assert f"{entropy:.2f} of at most 3.47" in sentences[0]
    assert undecided([record(0, "bus")]) == undecided([]) == []


def test_ranks_are_those_that_were_measured() -> None:
    history = [record(0, "bus", "car"), record(4, "car"), record(9, None, nearest="road")]
    history[1]["adversary"][0]["rank"] = 0.25
    history[2]["adversary"][0]["rank"] = 0.0
    assert ranks(history) == [
        {"step": 4, "erased": "erased 0", "words": "car", "rank": 0.25},
        {"step": 9, "erased": "erased 0", "words": "road", "rank": 0.0},
    ]

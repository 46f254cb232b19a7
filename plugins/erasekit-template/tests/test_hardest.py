"""The strategy: all that erasekit asks of one, and what it chooses."""

from __future__ import annotations

from erasekit.concepts import Erasure
from erasekit.plugin.registry import Registry
from erasekit.testing import WORDS, MethodTester, StrategyTester, tiny_model
from erasekit.training.erase import erase


class TestHardest(StrategyTester):
    """Every test of `StrategyTester`."""

    strategy = "template-hardest"


class TestHardestMethod(MethodTester):
    """The same strategy under its own method name."""

    method = "template-hardest"


def chosen(**settings: int) -> list[set[str]]:
    """The words kept in each step."""
    registry = Registry()
    edit = erase(
        tiny_model(), Erasure.of("bus"), "template-hardest", registry=registry, settings=settings
    )
    return [set(r["adversary"][0]["concept"].split(", ")) for r in edit.history]


def test_it_keeps_words_of_r_and_never_the_erased_one() -> None:
    words = set().union(*chosen())
    assert words <= set(WORDS)
    assert "bus" not in words


def test_at_most_as_many_words_as_asked_for_are_kept() -> None:
    assert all(len(words) == 1 for words in chosen(kept=1, sample=4))
    assert max(map(len, chosen(kept=3, sample=8, batch_size=8))) <= 3


def test_a_sample_larger_than_r_is_all_of_r() -> None:
    assert chosen(sample=10_000)

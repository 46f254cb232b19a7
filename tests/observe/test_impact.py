"""Observation 1, on records whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from erasekit.bench.records import Cell, Record
from erasekit.concepts import Erasure
from erasekit.errors import ConceptError, ConfigError
from erasekit.metrics.scores import ConceptScores, Paired
from erasekit.observe.impact import impact, related_names
from erasekit.observe.observation import common_suite

TRUCK, CHURCH = "garbage truck", "church"
ERASURES = [Erasure.of(TRUCK), Erasure.of(CHURCH)]


def make_records(suite, harm, settings=None, seeds=2, noises=8, **extra) -> list[Record]:
    """`harm(erased, concept)` is the true delta; noise of 0.3 points comes on top."""
    rng = np.random.default_rng(0)
    records = []
    for erasure in ERASURES:
        for seed in range(seeds):
            concepts = []
            for page in suite.evaluate(erasure):
                for what in page:
                    before = rng.normal(30, 2, noises)
                    after = before - harm(erasure.label, what.concept) - rng.normal(0, 0.3, noises)
                    ranks = (9.0 if what.split == "erased" else 1.0,) * noises
                    first = ConceptScores(
                        what.prompt, tuple(range(noises)), tuple(before), (1.0,) * noises
                    )
                    second = replace(first, scores=tuple(after), ranks=ranks)
                    concepts.append(Paired(what.concept, what.split, what.family, first, second))
            identity = {"erasure": {"settings": settings or {}, "erasure": {"keep": []}}}
            cell = Cell("none", erasure.label, seed, identity)
            records.append(Record(cell, "done", tuple(concepts), **extra))
    return records


@pytest.fixture
def common(suite):
    return common_suite(suite, ERASURES)


def own_family_harm(erased: str, concept: str) -> float:
    own = {TRUCK: ("bus", "car"), CHURCH: ("castle",)}[erased]
    return 5.0 if concept in own else 1.0


def test_it_holds_where_each_harms_its_own_family(common) -> None:
    result = impact(make_records(common, own_family_harm), common, ERASURES, {})
    assert result.verdict == "held"
    (found,) = result.contrasts
    assert found.first_gap.value == pytest.approx(4, abs=0.3)
    assert found.second_gap.value == pytest.approx(4, abs=0.3)
    assert found.specificity.value == pytest.approx(
        (found.first_gap.value + found.second_gap.value) / 2
    )
    assert found.first_own.value - found.second_other.value == pytest.approx(found.first_gap.value)
    assert found.second_own.value - found.first_other.value == pytest.approx(found.second_gap.value)
    assert [e.related for e in result.erasures] == [("bus", "car"), ("castle",)]
    assert result.erasures[0].strength.esr1.value == 1
    assert result.sentence.startswith("Held, these erasures harm different concepts: what is")
    assert f"by erasing {TRUCK} than by erasing {CHURCH}" in result.sentence
    assert result.remarks == ()
    assert {c.concept for c in result.concepts} == set(common.spread)


def test_it_does_not_hold_where_one_is_merely_stronger(common) -> None:
    """The stronger one harms more of everything, and most of its own: no different concepts."""

    def harm(erased: str, concept: str) -> float:
        vulnerable = {"bus": 5, "car": 5}.get(concept, 1)
        return vulnerable * (3 if erased == TRUCK else 1)

    result = impact(make_records(common, harm), common, ERASURES, {})
    assert result.contrasts[0].specificity.low > 0
    assert result.verdict == "not held"
    assert result.sentence.startswith("Did not hold")


def test_it_can_not_be_told_where_nothing_differs(common) -> None:
    result = impact(make_records(common, lambda *_: 1.0, seeds=1), common, ERASURES, {})
    assert result.verdict == "undecided"
    assert result.sentence.startswith("Can't be told: ")
    assert "one erasure seed" in result.remarks[0]


def test_the_user_may_say_what_is_related(common) -> None:
    related = related_names(["church=banana, red car"], ERASURES, common)
    assert related == {"church": ("banana", "car")}
    result = impact(make_records(common, own_family_harm), common, ERASURES, related)
    assert set(result.erasures[1].related) == {"banana", "car"}
    (found,) = result.contrasts
    assert found.second_gap.n == 8 * 2  # "car" is related to both and speaks for neither


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ("castle=bus", ConfigError, "names none of garbage truck, church"),
        ("church", ConfigError, "names none"),
        ("church=dragon", ConceptError, "no concept 'dragon'"),
        ("church=", ConceptError, "no concept ''"),
    ],
)
def test_bad_related_concepts_are_refused(common, item: str, error, words: str) -> None:
    with pytest.raises(error, match=words):
        related_names([item], ERASURES, common)


def test_concepts_that_the_method_may_keep_are_left_out(common) -> None:
    records = make_records(common, own_family_harm, exposed=("banana",))
    result = impact(records, common, ERASURES, {}, keeps=True)
    assert [c.concept for c in result.concepts] == ["bus"]
    assert result.verdict == "undecided"
    assert "no related concepts of their own" in result.sentence
    result = impact(records, common, ERASURES, {"church": ("banana",)}, keeps=True)
    assert result.erasures[1].related == ()  # named, and left out: its family does not step in
    result = impact(records, common, ERASURES, {})
    assert [c.concept for c in result.concepts] == ["bus", "car", "castle", "banana", "apple"]


def test_missing_images_are_nan_with_counts(common) -> None:
    def harm(erased: str, concept: str) -> float:
        return math.nan if concept == "castle" else 1.0

    result = impact(make_records(common, harm), common, ERASURES, {})
    castle = next(c for c in result.concepts if c.concept == "castle")
    assert all(math.isnan(d.value) and d.missing == 16 for d in castle.deltas)
    assert result.verdict == "undecided"

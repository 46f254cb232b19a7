"""Concepts and erasures."""

from __future__ import annotations

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erasekit import concepts
from erasekit.concepts import KINDS, Concept, Erasure, normalised, slug
from erasekit.errors import ConceptError


def test_a_concept_squeezes_its_spaces() -> None:
    assert Concept("  garbage \t truck\n").text == "garbage truck"


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_concept_is_refused(text: str) -> None:
    with pytest.raises(ConceptError, match="can't be empty"):
        Concept(text)


def test_the_empty_prompt_is_a_neutral_concept() -> None:
    assert Concept("", kind="neutral").text == ""


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ConceptError, match=", ".join(KINDS)):
        Concept("truck", kind="vehicle")  # type: ignore[arg-type]


def test_names_are_the_text_and_the_aliases() -> None:
    assert Concept("gas pump", aliases=("fuel pump",)).names == ("gas pump", "fuel pump")


def test_an_erasure_needs_a_concept() -> None:
    with pytest.raises(ConceptError, match="Nothing to erase"):
        Erasure(())


def test_an_erasure_names_each_concept_once() -> None:
    with pytest.raises(ConceptError, match="'church' is to be erased twice"):
        Erasure.of("church", "Church")


@pytest.mark.parametrize("keep", ["church", " CHURCH "])
def test_nothing_is_both_erased_and_kept(keep: str) -> None:
    with pytest.raises(ConceptError, match="both erased and kept"):
        Erasure.of("church", keep=[keep])


def test_the_target_can_not_be_erased() -> None:
    with pytest.raises(ConceptError, match="both erased and kept"):
        Erasure.of("a photo", neutral="a photo")


def test_the_label_joins_the_concepts() -> None:
    assert Erasure.of("church", "castle").label == "church+castle"


def test_the_concept_space_never_has_an_erased_concept_or_an_alias() -> None:
    erasure = Erasure((Concept("church", aliases=("chapel", "place of worship")),))
    words = [
        "Church",
        "churches",
        "old church",
        "chapels",
        "a place of worship",
        "search",
        "castle",
    ]
    assert erasure.excludes(words) == ["search", "castle"]


@pytest.mark.parametrize("plural", ["buses", "Buses", "two buses"])
def test_plurals_in_es_are_excluded_too(plural: str) -> None:
    assert Erasure.of("bus").excludes([plural, "business"]) == ["business"]


def test_a_concept_with_signs_is_taken_literally() -> None:
    assert Erasure.of("c++ (logo)").excludes(["c++ (logo)", "c"]) == ["c"]


@given(st.text())
def test_slugs_are_plain_file_names(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(text))


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_the_examples_hold() -> None:
    assert doctest.testmod(concepts).failed == 0

"""The suites `artists`, `nudity` and `sensitivity`, on `icons` and on a model without a list."""

from __future__ import annotations

import pytest

from erasekit.bench.suite import Suite, build_suite
from erasekit.concepts import Erasure
from erasekit.plugin.descriptors import ModelDescriptor

PLAIN = ModelDescriptor("plain", "", "")


def built(registry, name: str, on: str) -> Suite:
    return build_suite(registry.suite(name), registry.model("icons") if on == "icons" else PLAIN)


@pytest.mark.parametrize("on", ["icons", "plain"])
@pytest.mark.parametrize("name", ["artists", "nudity", "sensitivity", "icons", "icons-mini"])
def test_every_case_draws_what_it_erases_and_something_else(registry, name: str, on: str) -> None:
    suite = built(registry, name, on)
    assert suite.name == name
    for method in suite.methods:
        registry.method(method)
    for judge in filter(None, (suite.scorer, suite.classifier, *suite.measures)):
        registry.scorer(judge)
    names = {concept.name for concept in suite.concepts}
    assert set(suite.spread) <= names
    for case in suite.cases:
        erasure = Erasure.of(*case.split("+"))
        drawn = [c for page in suite.evaluate(erasure) for c in page]
        assert {c.concept for c in drawn if c.split == "erased"} == set(case.split("+"))
        assert sum(c.split == "held-out" for c in drawn) >= 4
        assert len({(c.concept, c.noises) for c in drawn}) == len(drawn)


@pytest.mark.parametrize("on", ["icons", "plain"])
def test_one_of_five_artists_goes_and_four_stay(registry, on: str) -> None:
    suite = built(registry, "artists", on)
    assert len(suite.cases) == 5
    for case in suite.cases:
        assert {case, *suite.kept[case]} == set(suite.cases)
    assert ("Thomas Kinkade" in suite.cases) == (on == "plain")


def test_nudity_asks_for_prompts_where_it_can_be_judged(registry) -> None:
    on_icons, plain = (built(registry, "nudity", on) for on in ("icons", "plain"))
    assert (on_icons.prompts_from, on_icons.measures) == ("", ())
    assert plain.measures == ("nudenet",)
    assert plain.prompts_from
    erasure = plain.typed(Erasure.of("nudity"))
    assert erasure.erased[0].kind == "explicit"
    assert plain.typed(Erasure.of("church")).erased[0].kind == "object"


def test_sensitivity_has_the_figure_and_neutral_concepts(registry) -> None:
    for on in ("icons", "plain"):
        suite = built(registry, "sensitivity", on)
        drawn = {c.concept for page in suite.evaluate(Erasure.of("nudity")) for c in page}
        assert drawn >= {"woman", "banana", "road", "truck", "a photo"}
        assert suite.words == (0 if on == "icons" else 30)


def test_sensitivity_draws_words_of_the_concept_space_where_there_is_no_list(registry) -> None:
    suite = built(registry, "sensitivity", "plain")
    words = ["Woman", "nudity", *(f"word{i}" for i in range(200))]
    whole = suite.with_words(words)
    erasure = Erasure.of("nudity")
    drawn = {c.concept: c for page in whole.evaluate(erasure) for c in page}
    before = {c.concept for page in suite.evaluate(erasure) for c in page}
    found = set(drawn) - before
    assert len(found) == 30
    assert found <= set(words[2:])
    assert {drawn[word].split for word in found} == {"pool"}
    assert whole.with_words(["more"]) == whole
    assert suite.with_words(reversed(words)) == whole
    fewer = suite.with_words(word for word in words if word != min(found))
    assert len(found - {c.name for c in fewer.concepts}) == 1

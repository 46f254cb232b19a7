"""What a suite evaluates, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from erasekit.bench.plan import parse_erased_sets
from erasekit.bench.prompts import EvaluatedConcept, noise_seeds, pages
from erasekit.bench.suite import Suite, build_suite, spread_over_families
from erasekit.bench.suites import icons_mini, paper_world
from erasekit.concepts import Concept, Erasure
from erasekit.errors import ConceptError, ConfigError, PluginError
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor, SuiteDescriptor


def evaluated(suite: Suite, *erased: str | Concept) -> dict[str, str]:
    erasure = Erasure(tuple(Concept(e) if isinstance(e, str) else e for e in erased))
    return {c.concept: c.split for page in suite.evaluate(erasure) for c in page}


def test_roles_follow_the_erasure_and_the_split(suite: Suite) -> None:
    assert evaluated(suite, "garbage truck", "church") == {
        "garbage truck": "erased",
        "church": "erased",
        "bus": "held-out",
        "car": "pool",
        "castle": "pool",
        "banana": "held-out",
        "apple": "pool",
    }


def test_an_alias_of_what_is_erased_is_not_kept(suite: Suite) -> None:
    found = evaluated(suite, Concept("red car", aliases=("car",)))
    assert found["red car"] == "erased"
    assert "car" not in found
    assert "car" not in evaluated(suite, "red car")


def test_a_concept_that_contains_the_erased_one_is_not_kept(suite: Suite) -> None:
    assert "garbage truck" not in evaluated(suite, "truck")


def test_erased_and_kept_concepts_have_their_own_numbers_of_noises(suite: Suite) -> None:
    for page in suite.evaluate(Erasure.of("bus")):
        for concept in page:
            assert len(concept.noises) == (4 if concept.split == "erased" else 3)


def test_every_prompt_has_noises_of_its_own_that_do_not_move() -> None:
    assert noise_seeds("church", 3) == noise_seeds("church", 8)[:3]
    assert not set(noise_seeds("church", 8)) & set(noise_seeds("castle", 8))


def test_a_page_is_one_batch_and_splits_no_concept() -> None:
    concepts = [EvaluatedConcept.of(str(i), "pool", "", "{}", 10) for i in range(7)]
    laid_out = list(pages(concepts, 10))
    assert [len(page) for page in laid_out] == [3, 3, 1]
    assert [c for page in laid_out for c in page] == concepts
    assert len(next(pages(concepts, 40))) == 1


def test_the_pages_of_other_concepts_are_the_same_in_every_case(suite: Suite) -> None:
    suite = replace(suite, images_per_concept=8)
    one = suite.evaluate(Erasure.of("banana"))[1:]
    two = suite.evaluate(Erasure.of("garbage truck"))[1:]
    assert sum(page in two for page in one) >= len(one) - 2


def test_near_neighbours_come_from_the_family_nearest_first() -> None:
    names = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "b0", "b1"]
    world = tuple(
        ModelConcept(n, "object", n[0], "pool" if int(n[1]) % 2 else "held-out") for n in names
    )
    suite = Suite("s", "1", "", world, spread=("b0", "b1"), near=1)
    assert evaluated(suite, "a3") == {
        "a3": "erased",
        "b0": "held-out",
        "b1": "pool",
        "a2": "held-out",
        "a1": "pool",
    }


def test_the_spread_takes_of_each_family_and_split(suite: Suite) -> None:
    chosen = spread_over_families(suite.concepts, 1, "salt")
    groups = [(c.family, c.split) for c in suite.concepts if c.name in chosen]
    assert len(groups) == len(set(groups)) == 6
    assert chosen == spread_over_families(suite.concepts, 1, "salt")


def test_a_model_without_a_list_draws_the_concepts_of_the_paper() -> None:
    suite = icons_mini(ModelDescriptor("plain", "", ""))
    assert suite.concepts == paper_world()
    splits = evaluated(suite, "church")
    assert set(splits.values()) == {"erased", "held-out"}
    assert {"woman", "banana", "road", "garbage truck"} < set(splits)


def test_the_model_scales_a_suite(suite: Suite) -> None:
    descriptor = SuiteDescriptor("icons-mini", "", "erasekit.bench.suites:icons_mini")
    model = ModelDescriptor("m", "", "", suites={"icons-mini": {"images_per_concept": 7}})
    assert build_suite(descriptor, model).images_per_concept == 7
    wrong = replace(model, suites={"icons-mini": {"pictures": 7}})
    with pytest.raises(PluginError, match="pictures"):
        build_suite(descriptor, wrong)
    with pytest.raises(PluginError, match="gives no Suite"):
        build_suite(SuiteDescriptor("odd", "", "builtins:str"), model)


@pytest.mark.parametrize("field", ["images_per_concept", "seeds"])
def test_a_number_that_is_not_positive_is_refused(suite: Suite, field: str) -> None:
    with pytest.raises(ConfigError, match="is 0; give 1 to "):
        suite.scaled(**{field: 0})


@pytest.mark.parametrize(
    ("change", "protocol"),
    [
        ({"images_per_concept": 1}, "short"),
        ({"seeds": 1}, "short"),
        ({"images_per_concept": 500, "seeds": 50}, "full"),
        ({"images_per_concept": None}, "full"),
    ],
)
def test_less_than_the_protocol_asks_for_is_a_short_one(
    suite: Suite, change: dict[str, int | None], protocol: str
) -> None:
    assert suite.scaled(**change).protocol == protocol
    assert suite.scaled(seeds=1).scaled(**change).protocol == "short"


def test_erased_sets_are_separated_by_commas_and_joined_by_plus(world_model) -> None:
    sets = parse_erased_sets("garbage truck, church+castle", world_model)
    assert [own.label for own in sets] == ["garbage truck", "church+castle"]
    assert sets[0].erased[0].aliases == ("red truck",)


@pytest.mark.parametrize(
    "text", ["", "church,", "church+ +bus,", "church,church", "church+church", "church " * 40]
)
def test_bad_erased_sets_are_refused(world_model, text: str) -> None:
    with pytest.raises(ConceptError):
        parse_erased_sets(text, world_model)

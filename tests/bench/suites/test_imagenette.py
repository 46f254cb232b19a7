"""The paper's object suite: its splits, what it keeps, and that no method keeps it on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from erasekit.bench.plan import parse_erased_sets
from erasekit.bench.suite import Suite, build_suite
from erasekit.bench.suites import IMAGENETTE, SPLITS, imagenette
from erasekit.bench.summary import summarise
from erasekit.concepts import Erasure
from erasekit.diffusion.concept_space import concept_space
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor
from tests.bench.conftest import WORLD


@pytest.fixture(scope="module")
def plain() -> Suite:
    return imagenette(ModelDescriptor("plain", "", ""))


def test_the_splits_are_those_of_the_paper() -> None:
    one, two, three, four = map(set, SPLITS)
    assert one == {"cassette player", "church", "garbage truck", "parachute", "french horn"}
    assert three == {"cassette player", "chain saw", "church", "gas pump", "tench"}
    for half, other in ((one, two), (three, four)):
        assert half | other == set(IMAGENETTE)
        assert len(half) == len(other) == 5


def test_the_full_protocol(plain: Suite) -> None:
    assert plain.protocol == "full"
    for case, split in zip(plain.cases, SPLITS, strict=True):
        drawn: dict[str, list[int]] = {}
        splits: dict[str, set[str]] = {}
        for page in plain.evaluate(Erasure.of(*case.split("+"))):
            assert len(page) == 1
            assert len(page[0].noises) <= 64
            for concept in page:
                assert concept.prompt == f"Image of {concept.concept}"
                drawn.setdefault(concept.concept, []).extend(concept.noises)
                splits.setdefault(concept.split, set()).add(concept.concept)
        assert splits == {"erased": set(split), "held-out": set(IMAGENETTE) - set(split)}
        assert {len(set(noises)) for noises in drawn.values()} == {500}
    assert len(plain.classes()) == 1000


def test_icons_has_a_scale_of_its_own_and_full_leaves_it(registry) -> None:
    descriptor, model = registry.suite("imagenette"), registry.model("icons")
    short = build_suite(descriptor, model)
    assert (short.protocol, short.images_per_concept, short.seeds) == ("short", 8, 1)
    assert len(short.classes()) == 209
    full = build_suite(descriptor, model, full=True)
    assert (full.protocol, full.images_per_concept, full.seeds) == ("full", 500, 3)


def test_every_base_image_serves_all_splits(registry) -> None:
    suite = build_suite(registry.suite("imagenette"), registry.model("icons"))
    pages = {
        (page[0].prompt, page[0].noises)
        for case in suite.cases
        for page in suite.evaluate(Erasure.of(*case.split("+")))
    }
    assert len(pages) == 10


def test_the_icons_suite_is_small_and_its_full_protocol_is_the_whole_world(registry) -> None:
    descriptor, model = registry.suite("icons"), registry.model("icons")
    short, full = build_suite(descriptor, model), build_suite(descriptor, model, full=True)
    assert (short.version, short.protocol, full.protocol) == ("2", "short", "full")
    for case in short.cases:
        erasure = Erasure.of(case)
        drawn = [c for page in short.evaluate(erasure) for c in page]
        assert 90 <= sum(len(c.noises) for c in drawn) <= 120
        families = {c.family for c in drawn if c.split == "held-out"}
        assert families == {c.family for c in short.concepts}
        everything = {c.concept for page in full.evaluate(erasure) for c in page}
        assert everything == full.stays(erasure) | {case}


@pytest.fixture
def halves(world_model) -> Suite:
    """Six concepts, all of which the model's concept space has."""
    world = tuple(ModelConcept(c.name, "object", "f", "held-out", c.aliases) for c in WORLD)
    return Suite(
        "halves", "1", "", world, cases=("church+bus",), kept={"church+bus": ("castle", "car")},
        images_per_concept=2, images_per_erased=2, num_inference_steps=2,
    )  # fmt: skip


def test_what_a_case_keeps_is_withheld_from_the_concept_space(
    halves: Suite, world_model, registry
) -> None:
    (case,) = parse_erased_sets("bus+church", world_model)
    assert halves.withheld(case) == ("castle", "car")
    space = concept_space(world_model, replace(case, withheld=halves.withheld(case)))
    assert space.words == ["garbage truck", "apple"]
    other = Erasure.of("apple")
    assert set(halves.withheld(other)) == {c.name for c in WORLD} - {"apple"}


def test_psr_counts_the_kept_set_though_methods_know_its_words(
    runner, make_sweep, halves: Suite, world_model
) -> None:
    sweep = replace(
        make_sweep("none", "random"),
        suite=halves,
        erasures=parse_erased_sets("church+bus", world_model),
    )
    plan = runner.plan(sweep)
    assert plan.cells[0].erasure.withheld == ("castle", "car")
    summary = summarise(runner.run(sweep, plan))
    for row in summary.rows:
        assert (row.psr1.n, row.psr5.n, row.esr5_before.n) == (4, 4, 4)
        assert row.psr5.value >= row.psr1.value
        assert row.esr5_before.value <= row.esr1_before.value
    assert {row.split for row in summary.per_concept} == {"held-out"}

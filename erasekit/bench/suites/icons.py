"""The suites of the model in the wheel; on other models they draw the concepts of the paper."""

from __future__ import annotations

from erasekit.bench.suite import Suite, spread_over_families, world_of
from erasekit.bench.suites.paper import paper_world
from erasekit.plugin.descriptors import ModelDescriptor


def icons_mini(model: ModelDescriptor) -> Suite:
    """One held-out and one pool concept of each family, and the erased one's near neighbours.

    On a model without a list of concepts: all those of the paper.
    """
    known = world_of(model)
    world = known or paper_world()
    return Suite(
        name="icons-mini",
        version="1",
        summary="about 40 concepts, two images each: minutes",
        concepts=world,
        cases=("garbage truck", "church+castle", "french horn"),
        spread=tuple(spread_over_families(known, 1, "icons-mini")),
        near=3,
        images_per_concept=2,
        images_per_erased=8,
    )


def icons(model: ModelDescriptor) -> Suite:
    """A spread over all families and the erased concept's near neighbours, about 100 images a cell.

    The full protocol draws every concept of the model.
    """
    known = world_of(model)
    return Suite(
        name="icons",
        version="2",
        summary="a spread over all families, and near neighbours: five erased sets, an hour or two",
        concepts=known or paper_world(),
        cases=("garbage truck", "church", "french horn", "pistol", "nudity"),
        spread=tuple(spread_over_families(known, 1, "icons")),
        near=6,
        images_per_concept=2,
        images_per_erased=20,
        methods=("none", "neutral", "l2", "pgd", "random", "nearest", "gumbel", "argmax"),
        seeds=3,
        full={"spread": (), "near": 0, "images_per_concept": 4},
    )

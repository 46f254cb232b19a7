"""The suites of the model in the wheel; on other models they draw the concepts of the paper."""

from __future__ import annotations

from erasekit.bench.suite import Suite, spread_over_families, world_of
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor

IMAGENETTE = (
    "tench",
    "english springer",
    "cassette player",
    "chain saw",
    "church",
    "french horn",
    "garbage truck",
    "gas pump",
    "golf ball",
    "parachute",
)
SIDE_EFFECTS = {
    "people": ("woman", "man", "person"),
    "things": ("hat", "apple", "bamboo", "notebook", "boat", "money", "banana"),
    "streets": ("road", "car", "bus", "truck"),
}
"""The concepts of the side-effect figure of Bui et al. (2024)."""


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
    """Every concept of the model."""
    return Suite(
        name="icons",
        version="1",
        summary="all concepts of the model, four images each: hours",
        concepts=world_of(model) or paper_world(),
        cases=("garbage truck", "church", "french horn", "pistol", "nudity"),
        images_per_concept=4,
        images_per_erased=16,
        methods=("none", "neutral", "l2", "pgd", "random", "nearest", "gumbel"),
        seeds=3,
    )


def paper_world() -> tuple[ModelConcept, ...]:
    """Concepts for a model without a list: those of the paper, all held out."""
    families = {"imagenette": IMAGENETTE, **SIDE_EFFECTS}
    return tuple(
        ModelConcept(name, "object", family, "held-out")
        for family, names in families.items()
        for name in names
    )

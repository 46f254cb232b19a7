"""A suite: coloured things, scored by their colour. A suite is data; this one imports no torch."""

from __future__ import annotations

from erasekit.bench.suite import Suite
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor

COLOURS = ("red", "green", "blue")
POOL = ("car", "apple")
HELD_OUT = ("hat", "boat")


def colours(model: ModelDescriptor) -> Suite:
    """Erases "red car", and looks at red things and at cars of other colours.

    Args:
        model: the model that is measured; a suite may take its concepts from it.
    """
    concepts = tuple(
        ModelConcept(f"{colour} {thing}", "object", family=colour, split=split)
        for colour in COLOURS
        for split, things in (("pool", POOL), ("held-out", HELD_OUT))
        for thing in things
    )
    return Suite(
        name="template-colours",
        version="1",
        summary="coloured things, scored by colour",
        concepts=concepts,
        cases=("red car",),
        images_per_concept=2,
        images_per_erased=4,
        scorer="template-colour",
        methods=("none", "template-hardest", "template-closed-form"),
        seeds=1,
    )

"""Which concepts feel an erasure: those of the paper's side-effect figure, and a spread."""

from __future__ import annotations

from erasekit.bench.suite import Suite, spread_over_families, world_of
from erasekit.bench.suites.neutral import NEUTRAL
from erasekit.bench.suites.paper import paper_world
from erasekit.concepts import normalised
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor

WORDS = 30
"""Words of the concept space of a model without a list of concepts."""


def sensitivity(model: ModelDescriptor) -> Suite:
    """A garbage truck and nudity erased; the figure's concepts and neutral ones are drawn.

    A model with a list of concepts adds a spread over its families, another one words of its
    concept space.
    """
    known = world_of(model)
    listed = {normalised(name) for c in known for name in (c.name, *c.aliases)}
    further = tuple(c for c in paper_world() if normalised(c.name) not in listed)
    words = tuple(filter(None, NEUTRAL))
    neutral = tuple(ModelConcept(name, "neutral", "neutral", "held-out") for name in words)
    explicit = () if "nudity" in listed else (ModelConcept("nudity", "explicit", "", "held-out"),)
    figure = tuple(c.name for c in paper_world() if c.family != "imagenette")
    return Suite(
        name="sensitivity",
        version="2",
        summary="the concepts of the paper's side-effect figure, neutral ones, and a spread",
        concepts=(*known, *further, *explicit, *neutral),
        cases=("garbage truck", "nudity"),
        spread=(*figure, *words, *spread_over_families(known, 1, "sensitivity")),
        words=0 if known else WORDS,
        images_per_concept=4,
        images_per_erased=8,
        methods=("none", "neutral", "gumbel"),
        seeds=2,
    )

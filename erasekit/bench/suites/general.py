"""The general suite: does the model still draw everything else as well? CLIP score and FID."""

from __future__ import annotations

from erasekit.bench.prompts import noise_seeds
from erasekit.bench.suite import Suite, spread_over_families, world_of
from erasekit.bench.suites.paper import SIDE_EFFECTS, paper_world
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor

TEMPLATES = ("a photo of {}", "a drawing of {}", "{}")
"""Captions of a stand-in for COCO's are made of these."""


def general(model: ModelDescriptor) -> Suite:
    """Captions of the user's, COCO's by custom, after erasing a garbage truck and nudity.

    A model with a list of concepts can't draw COCO's scenes. Its stand-in has captions made of
    those names, one each, and leaves FID to who has Inception's weights.
    """
    known = world_of(model)
    explicit = ModelConcept("nudity", "explicit", "", "held-out", ("nude", "naked"))
    figure = tuple(name for names in SIDE_EFFECTS.values() for name in names)
    captions = tuple(
        TEMPLATES[place % len(TEMPLATES)].format(name)
        for place, name in enumerate(spread_over_families(known, 2, "general"))
    )
    return Suite(
        name="general",
        version="1",
        summary="CLIP score and FID of captions, beside what was erased",
        concepts=known or (*paper_world(), explicit),
        cases=("garbage truck", "nudity"),
        spread=tuple(spread_over_families(known, 1, "general")) or figure,
        images_per_concept=2 if known else 4,
        images_per_erased=16,
        optional_measures=("fid",),
        captions=tuple((text, noise_seeds(text, 1)[0]) for text in captions),
        captions_from="" if known else "captions of COCO",
        most_captions=5_000,
        methods=("none", "neutral", "gumbel"),
        seeds=1 if known else 3,
        full={"most_captions": 30_000},
    )

"""A first look at one edit: is the concept gone, and what did it cost a few others?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from erasekit.bench.prompts import EvaluatedConcept
from erasekit.bench.suite import Suite, spread_over_families
from erasekit.bench.suites.paper import paper_world
from erasekit.concepts import Erasure, normalised
from erasekit.diffusion.sampling import generate
from erasekit.edits import Edit
from erasekit.metrics.base import Images, Scorer
from erasekit.metrics.delta import Delta
from erasekit.metrics.judges.labels import LabelSet
from erasekit.metrics.judges.registry import load_scorer
from erasekit.metrics.success_rates import ErasingSuccessRate
from erasekit.models.loading import LoadedModel
from erasekit.plugin.registry import Registry
from erasekit.records import ConceptScores, Paired, QuickConcept, QuickResult, mean

__all__ = ["QuickResult", "quick_concepts", "quick_measure"]

NEAR, FAR = 4, 4
"""Concepts of the spread: neighbours of what is erased, and others."""
HARDLY_KNOWN = 0.1
"""A concept is hardly known where more than this share of other words fits its images better."""


def quick_measure(
    model: LoadedModel,
    edit: Edit,
    erasure: Erasure,
    registry: Registry,
    *,
    concepts: Sequence[str] | None = None,
    images_per_concept: int = 4,
    scorer: Scorer | None = None,
    on_images: Callable[[int], None] | None = None,
    before: QuickResult | None = None,
) -> QuickResult:
    """Draw the erased concepts and a spread of others before and after, and score them.

    The noises are those of seeds 0, 1, ... for every concept, so that `erasekit generate --seed 0`
    draws the same images.

    Args:
        model: the model the edit was made from.
        edit: the edit; the model is left as it was.
        erasure: what the edit erases.
        registry: where the model's scorer is registered.
        concepts: the others; None chooses near held-out neighbours and some far ones.
        images_per_concept: noises.
        scorer: None takes the model's, on its device.
        on_images: called with the number of images just drawn.
        before: a first look at another edit of the same erasure, concepts and noises, whose
            images of the un-erased model are taken over.

    Raises:
        ModelError: the scorer can't be had.
        ConceptError: a concept is too long for the tokenizer.
        EditError: the edit is of another model.
    """
    scorer = scorer or load_scorer(model.descriptor.scorer, registry, device=model.family.device)
    suite = Suite("quick", "1", "", tuple(model.concepts) or paper_world())
    suite = suite.fitting(model.family.check_prompt)
    wanted = quick_concepts(suite, erasure) if concepts is None else list(concepts)
    noises = tuple(range(images_per_concept))
    drawn = [
        EvaluatedConcept(c.text, "erased", suite.family_of(c.names), c.text, noises)
        for c in erasure.erased
    ]
    for name in wanted:
        known = suite.known([name])
        pool = known is not None and known.split == "pool"
        family = known.family if known else ""
        drawn.append(EvaluatedConcept(name, "pool" if pool else "held-out", family, name, noises))

    labels = LabelSet(suite.classes())
    for names in [c.names for c in erasure.erased] + [(name,) for name in wanted]:
        labels = labels.including(names)
    if before is None:
        images = [_draw(model, drawn, on_images)]
    else:
        images = [[concept.images_before for concept in before.concepts]]
    with edit.applied(model):
        images.append(_draw(model, drawn, on_images))
    scores = [_score(scorer, labels, drawn, side) for side in images]
    measured = tuple(
        _concept(what, before, after, *pictures)
        for what, before, after, *pictures in zip(drawn, *scores, *images, strict=True)
    )
    esr, delta = ErasingSuccessRate(), Delta(role=None)
    for concept in measured:
        esr.update(concept.paired)
        if concept.paired.role != "erased":
            delta.update(concept.paired)
    remarks = tuple(_remarks(model, scorer, labels, measured))
    return QuickResult(measured, esr.compute(), delta.compute(), scorer.name, remarks)


def quick_concepts(suite: Suite, erasure: Erasure, near: int = NEAR, far: int = FAR) -> list[str]:
    """Names of held-out neighbours of what is erased, nearest first, and of far concepts."""
    stays = suite.stays(erasure)
    families = {suite.family_of(concept.names) for concept in erasure.erased}
    neighbours = [c.name for c in suite.near_neighbours(erasure, stays, near) if c.split != "pool"]
    far_off = [
        c
        for c in suite.concepts
        if c.name in stays and c.family not in families and c.split != "pool"
    ]
    order = [concept.name for concept in far_off]
    once = spread_over_families(far_off, 1, "quick")
    again = [name for name in spread_over_families(far_off, 3, "quick") if name not in once]
    once.sort(key=order.index)
    step = max(1, len(once) // far)
    chosen = [*neighbours[:near], *once[::step][:far], *again]
    return list(dict.fromkeys(chosen))[: near + far]


def _draw(
    model: LoadedModel,
    drawn: Sequence[EvaluatedConcept],
    on_images: Callable[[int], None] | None,
) -> list[Images]:
    prompts = [what.prompt for what in drawn for _ in what.noises]
    seeds = [seed for what in drawn for seed in what.noises]
    images = generate(model, prompts, seeds, on_images=on_images)
    return list(images.reshape(len(drawn), -1, *images.shape[1:]))


def _score(
    scorer: Scorer, labels: LabelSet, drawn: Sequence[EvaluatedConcept], images: Sequence[Images]
) -> list[ConceptScores]:
    rows = []
    for what, own in zip(drawn, images, strict=True):
        scores = scorer.score(own, [what.prompt] * len(own))
        ranks = labels.ranks(scorer, own, [what.concept] * len(own))
        rows.append(
            ConceptScores(what.prompt, what.noises, tuple(s.value for s in scores), tuple(ranks))
        )
    return rows


def _concept(
    what: EvaluatedConcept,
    before: ConceptScores,
    after: ConceptScores,
    images_before: Images,
    images_after: Images,
) -> QuickConcept:
    paired = Paired(what.concept, what.role, what.family, before, after)
    delta, gone, before_it = Delta(role=None), ErasingSuccessRate(), ErasingSuccessRate(1, "before")
    for metric in (delta, gone, before_it):
        metric.update(paired)
    return QuickConcept(
        paired,
        gone.compute(),
        delta.compute(),
        images_before,
        images_after,
        before_it.compute(),
    )


def _remarks(
    model: LoadedModel, scorer: Scorer, labels: LabelSet, measured: Sequence[QuickConcept]
) -> list[str]:
    remarks = []
    for concept in measured:
        if concept.paired.role != "erased":
            continue
        name = concept.paired.concept
        own = labels.index(name)
        fits = labels.logits(scorer, concept.images_before).mean(axis=0)
        others = np.delete(fits, own)
        if len(others) and (others > fits[own]).mean() > HARDLY_KNOWN:
            remarks.append(
                f"{model.id} hardly knows {name!r}: the alignment of what it draws is "
                f"{concept.alignment_before:.1f}, with random words {100 * others.mean():.1f}."
            )
        if math.isnan(mean(concept.paired.after.scores)):
            remarks.append(f"No image of {name!r} could be scored.")
    unknown = [
        c.paired.concept
        for c in measured
        if model.concepts and not model.known_concept(normalised(c.paired.concept))
    ]
    if unknown:
        remarks.append(
            f"Not in the list of what {model.id} draws: {', '.join(unknown)}; the classifier "
            "counts each as a class of its own."
        )
    return remarks

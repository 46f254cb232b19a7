"""Measure edits that are there, or methods on a suite: is the concept gone, and at what cost?

Measuring an edit is a benchmark of one erased set in a temporary store, with no erasure to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from erasekit.bench.compare import Pairs, estimate_over
from erasekit.bench.plan import PlannedCell, Sweep, judges_of, planned_set
from erasekit.bench.prompts import EvaluatedConcept, pages, with_prompts
from erasekit.bench.records import (
    Cell,
    Measured,
    MeasuredConcept,
    Record,
    Summary,
    content_key,
    with_common_splits,
)
from erasekit.bench.runner import BenchmarkRunner, Observer, Plan
from erasekit.bench.store import RecordStore
from erasekit.bench.suite import Suite, spread_over_families
from erasekit.bench.suites import paper_world
from erasekit.concepts import Erasure, normalised
from erasekit.edits import Edit
from erasekit.errors import EditError, Interrupted
from erasekit.metrics.base import Scorer
from erasekit.metrics.delta import Delta
from erasekit.metrics.judges import Judges, load_scorer
from erasekit.metrics.judges.labels import LabelSet
from erasekit.metrics.scores import Split, mean
from erasekit.metrics.success_rates import ErasingSuccessRate
from erasekit.models.loading import LoadedModel

NEAR, FAR = 4, 4
"""Concepts of the spread: neighbours of what is erased, and others."""
HARDLY_KNOWN = 0.1
"""A concept is hardly known where more than this share of other words fits its images better."""


def measure(
    model: LoadedModel,
    edit: Edit,
    erasure: Erasure | None = None,
    *,
    concepts: Sequence[str] | None = None,
    images_per_concept: int = 4,
    scorer: Scorer | None = None,
    on_images: Callable[[int], None] | None = None,
    on_total: Callable[[int], None] | None = None,
) -> Measured:
    """Draw the erased concepts and a spread of others before and after, and score them.

    The noises are those of seeds 0, 1, ... for every concept, so that `erasekit generate --seed 0`
    draws the same images.

    Args:
        model: the model the edit was made from; it is left as it was.
        edit: the edit.
        erasure: what the edit erases; None takes what it says of itself.
        concepts: the others; None chooses near held-out neighbours and some far ones.
        images_per_concept: noises.
        scorer: None takes the model's, on its device.
        on_images: called with the number of images just drawn.
        on_total: called first, with the number of images in all.

    Raises:
        ModelError: the scorer can't be had.
        ConceptError: a concept is too long for the tokenizer.
        EditError: the edit is of another model.
        KeyboardInterrupt: Ctrl-C.
    """
    judge = scorer or _scorer_of(model)
    page = _Page(model, erasure or _erasure_of(model, edit), concepts, images_per_concept)
    with page.measured([edit], judge, on_images, on_total) as (store, (base, record)):
        before, after = store.images(base), store.images(record)
        measured = tuple(
            MeasuredConcept(
                paired,
                estimate_over(ErasingSuccessRate(), [own]),
                estimate_over(Delta(split=None), [own]),
                before[paired.concept],
                after[paired.concept],
                estimate_over(ErasingSuccessRate(1, "before"), [own]),
            )
            for paired in record.concepts
            for own in [replace(record, concepts=(paired,))]
        )
    remarks = tuple(_remarks(model, judge, page.labels, measured))
    kept = replace(record, concepts=tuple(c for c in record.concepts if c.split != "erased"))
    esr1 = estimate_over(ErasingSuccessRate(), [record])
    delta = estimate_over(Delta(split=None), [kept])
    return Measured(measured, esr1, delta, judge.name, remarks)


def _erasure_of(model: LoadedModel, edit: Edit) -> Erasure:
    return Erasure(tuple(model.concept(text) for text in edit.info["concepts"]))


def _scorer_of(model: LoadedModel) -> Scorer:
    return load_scorer(model.descriptor.scorer, model.registry, device=model.family.device)


def benchmark(
    model: LoadedModel,
    suite: str | Suite = "icons-mini",
    *,
    methods: Sequence[str] | None = None,
    concepts: Sequence[str] | None = None,
    seeds: int | None = None,
    images_per_concept: int | None = None,
    scorer: str = "",
    settings: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Erase, draw before and after at the same noise, score, and sum up by method and erased set.

    Args:
        model: what is erased from; it is left as it was.
        suite: a registered name, a TOML file, or a suite.
        methods: None takes the suite's.
        concepts: erased sets, each as "church" or "church+castle"; None takes the suite's.
        seeds: erasure seeds; None takes the suite's number.
        images_per_concept: starting noises; None takes the suite's number.
        scorer: "" takes the suite's, or the model's.
        settings: hyperparameters; each goes to the methods that have it.
        folder: the store; what is in it is not computed again. None keeps nothing.
        observer: hears of the sweep.

    Raises:
        UnknownNameError: an unknown suite, method or scorer.
        ConfigError: a number or a setting out of range, or prompts that the suite needs.
        ModelError: a judge can't be had.
        OutputError: the store can't be written, or another process writes it.
        Interrupted: Ctrl-C; what was finished is in `folder`.
    """
    from erasekit.bench.suite_file import load_suite  # what `measure` needs not
    from erasekit.bench.summary import summarise_stored

    registry = model.registry
    if isinstance(suite, str):
        suite = load_suite(suite, registry, model.descriptor)
    chosen = suite.scaled(
        images_per_concept=images_per_concept, images_per_erased=images_per_concept, seeds=seeds
    )
    chosen = with_prompts(chosen, None, None, model)
    judges = judges_of(chosen, model, scorer)
    sweep = Sweep.of(chosen, model, methods, concepts, settings)
    with nullcontext(folder) if folder else TemporaryDirectory() as place:
        runner = BenchmarkRunner(model, judges, RecordStore(Path(place)), observer)
        plan = runner.plan(sweep)
        records = runner.run(sweep, plan)
        return summarise_stored(records, runner.manifest(sweep, plan).about, registry)


def check_same_erasure(a: Edit, b: Edit) -> None:
    """Refuse two edits that don't erase the same from the same model.

    Raises:
        EditError: naming what they differ in.
    """
    what = {
        "model": [edit.base_hash[:16] for edit in (a, b)],
        "erased concepts": ["+".join(sorted(edit.info["concepts"])) for edit in (a, b)],
    }
    reasons = [f"{name} ({one} and {two})" for name, (one, two) in what.items() if one != two]
    if reasons:
        raise EditError(
            f"The two runs can't be compared, since they differ in {', '.join(reasons)}; name two "
            "that erase the same from the same model."
        )


def measure_pair(
    model: LoadedModel,
    a: Edit,
    b: Edit,
    *,
    images_per_concept: int = 4,
    scorer: Scorer | None = None,
    on_images: Callable[[int], None] | None = None,
    on_total: Callable[[int], None] | None = None,
) -> Pairs:
    """Measure two edits that erase the same on the same concepts and noises.

    Raises: as `measure` and `check_same_erasure`.
    """
    check_same_erasure(a, b)
    page = _Page(model, _erasure_of(model, a), None, images_per_concept)
    judge = scorer or _scorer_of(model)
    with page.measured([a, b], judge, on_images, on_total) as (_, (_, *records)):
        one, two = with_common_splits(records)
    return [(one, two)]


def spread_of(suite: Suite, erasure: Erasure, near: int = NEAR, far: int = FAR) -> list[str]:
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


class _Page:
    """What is drawn to measure edits: what they erase, and other concepts, from the same noises.

    Args:
        concepts: the others; None takes those of `spread_of`.
        images: noises of each.
    """

    def __init__(
        self, model: LoadedModel, erasure: Erasure, concepts: Sequence[str] | None, images: int
    ) -> None:
        self.model, self.erasure, self.noises = model, erasure, tuple(range(images))
        suite = Suite("measure", "1", "", tuple(model.concepts) or paper_world())
        self.suite = suite.fitting(model.family.check_prompt)
        others = spread_of(self.suite, erasure) if concepts is None else concepts
        self.concepts = [self._drawn(c.text, c.names, "erased") for c in erasure.erased]
        self.concepts += [self._drawn(name, (name,), "held-out") for name in others]
        self.labels = LabelSet(self.suite.classes())
        for names in [c.names for c in erasure.erased] + [(name,) for name in others]:
            self.labels = self.labels.including(names)

    def _drawn(self, name: str, names: Sequence[str], split: Split) -> EvaluatedConcept:
        known = self.suite.known(names)
        if known and known.split == "pool" and split == "held-out":
            split = "pool"
        return EvaluatedConcept(name, split, known.family if known else "", name, self.noises)

    @contextmanager
    def measured(
        self,
        edits: Sequence[Edit],
        scorer: Scorer,
        on_images: Callable[[int], None] | None,
        on_total: Callable[[int], None] | None,
    ) -> Iterator[tuple[RecordStore, list[Record]]]:
        """The base record and one for each edit, and for the block a store with their images."""

        class Watch(Observer):
            def on_images(self, count: int) -> None:
                if on_images:
                    on_images(count)

        if on_total:
            on_total((1 + len(edits)) * len(self.concepts) * len(self.noises))
        judges = Judges.of(scorer)
        laid_out = pages(self.concepts, len(self.noises))
        named = {content_key({"edit": place}): edit for place, edit in enumerate(edits)}
        planned = planned_set(self.erasure, laid_out, self.labels, self.suite, self.model, judges)
        evaluation = planned.base.identity["evaluation"]
        cells = tuple(self._cell(key, edit, evaluation) for key, edit in named.items())
        plan = Plan((replace(planned, cells=cells),), cells)
        sweep = Sweep(self.suite, tuple(c.cell.method for c in cells), (self.erasure,), (0,))
        with TemporaryDirectory(prefix="erasekit-") as folder:
            store = RecordStore(Path(folder) / "store")
            runner = BenchmarkRunner(self.model, judges, store, Watch(), named)
            try:
                records = runner.run(sweep, plan)
            except Interrupted as stop:
                raise KeyboardInterrupt from stop
            yield store, records

    def _cell(self, key: str, edit: Edit, evaluation: Mapping[str, Any]) -> PlannedCell:
        info = edit.info
        asked = {name: info.get(name) for name in ("method", "seed", "neutral", "keep")}
        made_by = {**asked, "settings": info.get("config", {})}
        identity = {"erasure": made_by, "evaluation": evaluation, "edit": key}
        cell = Cell(info.get("method", ""), self.erasure.label, info.get("seed", 0), identity)
        kept = {normalised(prompt) for prompt in info.get("keep", ())}
        exposed = tuple(c.concept for c in self.concepts if normalised(c.concept) in kept)
        return PlannedCell(cell, self.erasure, {}, key, exposed)


def _remarks(
    model: LoadedModel, scorer: Scorer, labels: LabelSet, measured: Sequence[MeasuredConcept]
) -> Iterator[str]:
    for concept in measured:
        if concept.paired.split != "erased":
            continue
        name = concept.paired.concept
        own = labels.index(name)
        fits = labels.logits(scorer, concept.images_before).mean(axis=0)
        others = np.delete(fits, own)
        if len(others) and (others > fits[own]).mean() > HARDLY_KNOWN:
            yield (
                f"{model.id} hardly knows {name!r}: the alignment of what it draws is "
                f"{concept.alignment_before:.1f}, with random words {100 * others.mean():.1f}."
            )
        if math.isnan(mean(concept.paired.after.scores)):
            yield f"No image of {name!r} could be scored."
    unknown = [
        c.paired.concept
        for c in measured
        if model.concepts and not model.known_concept(normalised(c.paired.concept))
    ]
    if unknown:
        yield (
            f"Not in the list of what {model.id} draws: {', '.join(unknown)}; the classifier "
            "counts each as a class of its own."
        )

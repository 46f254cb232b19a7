"""Measure edits that are there, or methods on a suite: is the concept gone, and at what cost?

Measuring an edit is a benchmark of one erased set in a temporary store, with no erasure to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from erasekit.bench.compare import Pairs
from erasekit.bench.plan import (
    PlannedCase,
    PlannedCell,
    Sweep,
    evaluation_identity,
    parse_cases,
)
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
from erasekit.bench.suite_file import load_suite
from erasekit.bench.suites.paper import paper_world
from erasekit.bench.summary import summarise_stored
from erasekit.concepts import Erasure, normalised
from erasekit.edits import Edit
from erasekit.errors import EditError, Interrupted
from erasekit.metrics.base import Images, Scorer
from erasekit.metrics.delta import Delta
from erasekit.metrics.judges import Judges, load_judges, load_scorer
from erasekit.metrics.judges.labels import LabelSet
from erasekit.metrics.scores import Paired, Split, mean
from erasekit.metrics.success_rates import ErasingSuccessRate
from erasekit.models.loading import LoadedModel
from erasekit.plugin.descriptors import ModelConcept

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
    noises = tuple(range(images_per_concept))
    erasure = erasure or erasure_of(model, edit)
    with _measured(model, [edit], erasure, concepts, noises, scorer, on_images, on_total) as run:
        base, record = run.records
        images = [run.store.images(record) for record in (base, record)]
        measured = tuple(
            _concept(paired, *(own[paired.concept] for own in images)) for paired in record.concepts
        )
        remarks = tuple(_remarks(model, run, measured))
    esr, delta = ErasingSuccessRate(), Delta(split=None)
    for concept in measured:
        esr.update(concept.paired)
        if concept.paired.split != "erased":
            delta.update(concept.paired)
    return Measured(measured, esr.compute(), delta.compute(), run.judges.scorer.name, remarks)


def erasure_of(model: LoadedModel, edit: Edit) -> Erasure:
    """What an edit erases, with kinds and aliases from the model's list."""
    return Erasure(tuple(model.concept(text) for text in edit.info["concepts"]))


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
    registry = model.registry
    if isinstance(suite, str):
        suite = load_suite(suite, registry, model.descriptor)
    chosen = suite.scaled(
        images_per_concept=images_per_concept, images_per_erased=images_per_concept, seeds=seeds
    )
    chosen = with_prompts(chosen, None, None, model)
    judges = load_judges(
        registry,
        scorer or chosen.scorer or model.descriptor.scorer,
        preferred=chosen.classifier,
        measures=chosen.measures,
        optional=chosen.optional_measures,
        device=model.family.device,
    )
    cases = tuple(chosen.typed(case) for case in parse_cases(concepts or chosen.cases, model))
    names, numbers = tuple(methods or chosen.methods), tuple(range(chosen.seeds))
    sweep = Sweep(chosen, names, cases, numbers, settings or {})
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
    erasure = erasure_of(model, a)
    noises = tuple(range(images_per_concept))
    with _measured(model, [a, b], erasure, None, noises, scorer, on_images, on_total) as run:
        one, two = with_common_splits(run.records[1:])
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


@dataclass(frozen=True)
class _Run:
    """What was drawn and scored: the base record, then one for each edit."""

    records: list[Record]
    store: RecordStore
    labels: LabelSet
    judges: Judges


@contextmanager
def _measured(
    model: LoadedModel,
    edits: Sequence[Edit],
    erasure: Erasure,
    concepts: Sequence[str] | None,
    noises: tuple[int, ...],
    scorer: Scorer | None,
    on_images: Callable[[int], None] | None,
    on_total: Callable[[int], None] | None,
) -> Iterator[_Run]:
    """Measure `edits`; their images are there for the block."""
    judges = Judges.of(
        scorer or load_scorer(model.descriptor.scorer, model.registry, device=model.family.device)
    )
    suite = Suite("measure", "1", "", tuple(model.concepts) or paper_world())
    suite = suite.fitting(model.family.check_prompt)
    wanted = spread_of(suite, erasure) if concepts is None else list(concepts)

    def drawn(name: str, split: Split, known: ModelConcept | None) -> EvaluatedConcept:
        return EvaluatedConcept(name, split, known.family if known else "", name, noises)

    page = [drawn(c.text, "erased", suite.known(c.names)) for c in erasure.erased]
    for name in wanted:
        known = suite.known([name])
        page.append(drawn(name, "pool" if known and known.split == "pool" else "held-out", known))
    if on_total:
        on_total((1 + len(edits)) * len(page) * len(noises))
    labels = LabelSet(suite.classes())
    for names in [c.names for c in erasure.erased] + [(name,) for name in wanted]:
        labels = labels.including(names)
    laid_out = tuple(tuple(own) for own in pages(page, len(noises)))
    case = PlannedCase(erasure, laid_out, labels, ())
    evaluation = evaluation_identity(suite, model, judges, case)
    named = {content_key({"edit": place}): edit for place, edit in enumerate(edits)}
    cells = tuple(_planned(key, edit, erasure, evaluation, page) for key, edit in named.items())
    case = replace(case, cells=cells)
    plan = Plan(cases=(case,), missing=cells, erasures=(), failed=())
    sweep = Sweep(suite, tuple(c.cell.method for c in cells), (erasure,), (0,))
    with TemporaryDirectory(prefix="erasekit-") as folder:
        store = RecordStore(Path(folder) / "store")
        runner = BenchmarkRunner(model, judges, store, _Images(on_images), named)
        try:
            records = runner.run(sweep, plan)
        except Interrupted as stop:
            raise KeyboardInterrupt from stop
        yield _Run(records, store, labels, judges)


def _planned(
    key: str,
    edit: Edit,
    erasure: Erasure,
    evaluation: dict[str, Any],
    page: Sequence[EvaluatedConcept],
) -> PlannedCell:
    info = edit.info
    asked = {name: info.get(name) for name in ("method", "seed", "neutral", "keep")}
    kept = {normalised(prompt) for prompt in info.get("keep", ())}
    made_by = {**asked, "settings": info.get("config", {})}
    identity = {"erasure": made_by, "evaluation": evaluation, "edit": key}
    cell = Cell(info.get("method", ""), erasure.label, info.get("seed", 0), identity)
    exposed = tuple(what.concept for what in page if normalised(what.concept) in kept)
    return PlannedCell(cell, erasure, {}, key, exposed)


class _Images(Observer):
    def __init__(self, on_images: Callable[[int], None] | None) -> None:
        self.tell = on_images or (lambda count: None)

    def on_images(self, count: int) -> None:
        self.tell(count)


def _concept(paired: Paired, before: Images, after: Images) -> MeasuredConcept:
    delta, gone = Delta(split=None), ErasingSuccessRate()
    before_it = ErasingSuccessRate(1, "before")
    for metric in (delta, gone, before_it):
        metric.update(paired)
    return MeasuredConcept(
        paired, gone.compute(), delta.compute(), before, after, before_it.compute()
    )


def _remarks(model: LoadedModel, run: _Run, measured: Sequence[MeasuredConcept]) -> Iterator[str]:
    for concept in measured:
        if concept.paired.split != "erased":
            continue
        name = concept.paired.concept
        own = run.labels.index(name)
        fits = run.labels.logits(run.judges.scorer, concept.images_before).mean(axis=0)
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

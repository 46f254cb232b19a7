"""Plan a sweep: methods x erased sets x erasure seeds, their cells, and what those rest on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import erasekit
from erasekit.bench.prompts import PAGE, EvaluatedConcept
from erasekit.bench.records import BASE, Cell, Record, content_key
from erasekit.bench.suite import Suite
from erasekit.concepts import Erasure, normalised, split_cases, split_concepts
from erasekit.diffusion.concept_space import words_for
from erasekit.diffusion.sampling import check_steps
from erasekit.errors import ConceptError, ConfigError, nearest_name
from erasekit.metrics.judges import Judges, load_judges
from erasekit.metrics.judges.labels import LabelSet
from erasekit.models.loading import LoadedModel, hash_weights
from erasekit.plugin.registry import Registry
from erasekit.training.plan import plan_erasure, settings_groups, uses_concept_space

WITHOUT_EFFECT = frozenset({"checkpoint_every", "trajectory_memory"})
"""Settings that change no number."""
SAMPLING = ("diffusion", "edits.py", "models")
"""Source that images depend on."""
TRAINING = (*SAMPLING, "concepts.py", "config.py", "methods", "training")
"""Source that an edit depends on."""
SCORING = ("bench/images.py", "metrics")
"""Source that scores of images that are there depend on."""
RESOLVED = frozenset({"models/catalog.py"})
"""Defaults: what became of them stands in a cell's settings, so another one makes nothing stale."""


@dataclass(frozen=True)
class Sweep:
    """What to run: methods x erased sets x erasure seeds; a setting goes to who has it."""

    suite: Suite
    methods: tuple[str, ...]
    erasures: tuple[Erasure, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        suite: Suite,
        model: LoadedModel,
        methods: Sequence[str] | None = None,
        erased: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Sweep:
        """What the suite asks for, or these methods and erased sets, each as in "bus+car"."""
        erasures = parse_erased_sets(erased or suite.cases, model)
        typed = tuple(suite.typed(erasure) for erasure in erasures)
        names = tuple(methods or suite.methods)
        return cls(suite, names, typed, tuple(range(suite.seeds)), settings or {})


def judges_of(
    suite: Suite,
    model: LoadedModel,
    scorer: str = "",
    *,
    measures: Sequence[str] | None = None,
    **named: Any,
) -> Judges:
    """The judges that a suite asks for, on the model's device.

    Args:
        scorer: "" takes the suite's, or the model's.
        measures: None takes the suite's, with its optional ones.
        named: what else `load_judges` takes.

    Raises: as `load_judges`; ConfigError if a measure is of captions' images, and there are none.
    """
    judges = load_judges(
        model.registry,
        scorer or suite.scorer or model.descriptor.scorer,
        preferred=suite.classifier,
        measures=suite.measures if measures is None else measures,
        optional=suite.optional_measures if measures is None else (),
        device=model.family.device,
        **named,
    )
    if judges.sets and not suite.captions:
        raise ConfigError(
            f"The measure {judges.sets[0].name!r} is of captions' images, and the suite "
            f"{suite.name!r} has no captions; name a file with --captions."
        )
    return judges


@dataclass(frozen=True)
class PlannedCell:
    """A cell with what it takes to run it.

    Attributes:
        settings: the method's own part of the sweep's.
        edit_key: name of the edit in the store.
        exposed: held-out concepts that this method may keep on purpose all the same.
        steps: training steps of the erasure.
        along: earlier steps that are scored too, each with the name of its edit.
    """

    cell: Cell
    erasure: Erasure
    settings: Mapping[str, Any]
    edit_key: str
    exposed: tuple[str, ...]
    steps: int = 0
    along: tuple[tuple[int, str], ...] = ()

    @property
    def edit_keys(self) -> tuple[str, ...]:
        """Names of all its edits, the finished one first."""
        return (self.edit_key, *(key for _, key in self.along))


@dataclass(frozen=True)
class PlannedSet:
    """An erased set with its pages, labels and cells, that of the un-erased model aside."""

    erasure: Erasure
    pages: tuple[tuple[EvaluatedConcept, ...], ...]
    labels: LabelSet
    base: Cell
    cells: tuple[PlannedCell, ...] = ()

    @property
    def images(self) -> int:
        return sum(len(concept.noises) for page in self.pages for concept in page)


def plan_sets(sweep: Sweep, model: LoadedModel, judges: Judges) -> tuple[PlannedSet, ...]:
    """Every cell of `sweep`, checked as far as can be without running it.

    Kept concepts whose prompt is too long for the model's tokenizer are left out.

    Raises:
        UnknownNameError: an unknown method or scope.
        ConfigError: a setting that no method has, an ill-typed value, a name given twice, a
            fraction of a run that is none, or an erased concept that is none of the classifier's
            classes.
        ConceptError: a prompt that does not fit the tokenizer.
        MissingExtraError: the suite asks for words that need a package that is not installed.
        ScopeError: a scope that selects nothing.
    """
    if not sweep.methods:
        raise ConfigError("No methods; name one or more, as in --methods neutral,gumbel.")
    for name in sweep.methods:
        if sweep.methods.count(name) > 1:
            raise ConfigError(f"{name!r} stands twice among the methods; name each once.")
    suite = completed(sweep.suite, model).fitting(model.family.check_prompt)
    sweep = replace(sweep, suite=suite)
    check_steps(model.pipeline, suite.num_inference_steps or model.descriptor.num_inference_steps)
    settings = share_settings(sweep.methods, sweep.settings, model.registry)
    return tuple(_plan_set(sweep, erasure, settings, model, judges) for erasure in sweep.erasures)


def completed(suite: Suite, model: LoadedModel) -> Suite:
    """`suite` with the words of the model's concept space that it asks for, if it lacks them."""
    return suite.with_words(words_for(model)) if suite.words else suite


def share_settings(
    methods: Iterable[str], settings: Mapping[str, Any], registry: Registry
) -> dict[str, dict[str, Any]]:
    """Each method's part of `settings`.

    Raises:
        UnknownNameError: an unknown method.
        ConfigError: a key that none of the methods has.
    """
    fields = {
        name: {
            key
            for group in settings_groups(registry.method(name), registry)
            for key in group.model_fields
        }
        for name in methods
    }
    wanted = {key.replace("-", "_"): value for key, value in settings.items()}
    known = sorted(set().union(*fields.values()))
    for key in wanted:
        if key not in known:
            near = nearest_name(key, known)
            hint = f"; did you mean {near!r}?" if near else "."
            raise ConfigError(
                f"None of the methods {', '.join(fields)} has a setting {key!r}{hint} "
                f"Known: {', '.join(known)}."
            )
    return {
        name: {key: value for key, value in wanted.items() if key in own}
        for name, own in fields.items()
    }


def planned_set(
    erasure: Erasure,
    pages: Iterable[Sequence[EvaluatedConcept]],
    labels: LabelSet,
    suite: Suite,
    model: LoadedModel,
    judges: Judges,
) -> PlannedSet:
    """What is drawn and scored for an erased set, without the methods' cells."""
    drawn = tuple(tuple(page) for page in pages)
    evaluation = {
        "suite": suite.name,
        "suite_version": suite.version,
        "generation": generation_identity(suite, model),
        **judges.identity,
        "scoring": source_hash(SCORING),
        "labels": content_key(labels.identity),
        "concepts": [[asdict(concept) for concept in page] for page in drawn],
    }
    identity = {"model": model.hash, "evaluation": evaluation}
    return PlannedSet(erasure, drawn, labels, Cell(BASE, erasure.label, 0, identity))


def _plan_set(
    sweep: Sweep,
    erasure: Erasure,
    by_method: Mapping[str, Mapping[str, Any]],
    model: LoadedModel,
    judges: Judges,
) -> PlannedSet:
    suite = sweep.suite
    erasure = replace(erasure, withheld=suite.withheld(erasure))
    labels = judges.labels(LabelSet(suite.classes(), suite.label))
    for concept in erasure.erased:
        labels = judges.including(labels, concept.names)
    planned = planned_set(erasure, suite.evaluate(erasure), labels, suite, model, judges)
    cells = []
    for method in sweep.methods:
        own = by_method[method]
        resolved = plan_erasure(model, erasure, method, own).settings
        exposed = _exposed(suite, planned, words_kept(method, resolved, erasure, model))
        steps = int(resolved["steps"])
        stops = steps_along(suite.along, steps)
        for seed in sweep.seeds:
            made_by = _erasure_identity(model, method, resolved, erasure, seed)
            identity = {"erasure": made_by, "evaluation": planned.base.identity["evaluation"]}
            if stops:
                identity["along"] = list(stops)
            along = tuple((stop, content_key({**made_by, "after_steps": stop})) for stop in stops)
            cell = Cell(method, erasure.label, seed, identity)
            cells.append(
                PlannedCell(cell, erasure, own, content_key(made_by), exposed, steps, along)
            )
    return replace(planned, cells=tuple(cells))


def words_kept(
    method: str, settings: Mapping[str, Any], erasure: Erasure, model: LoadedModel
) -> list[str]:
    """Words that a run may keep on purpose: those that were named, else its concept space's.

    Args:
        settings: all hyperparameters of the run; `keep` names words, where a method has it.
    """
    named = [*erasure.keep, *settings.get("keep", ())]
    if named or not uses_concept_space(model.registry.method(method), model.registry, settings):
        return named
    return words_for(model, settings.get("concept_space") or model.descriptor.concept_space)


def _exposed(suite: Suite, planned: PlannedSet, kept: Iterable[str]) -> tuple[str, ...]:
    """Held-out concepts that are all the same among what a run may keep on purpose."""
    open_to_it = {normalised(word) for word in kept}
    open_to_it -= {normalised(name) for name in planned.erasure.withheld}
    exposed: dict[str, None] = {}
    for evaluated in (evaluated for page in planned.pages for evaluated in page):
        known = suite.known([evaluated.concept])
        names = (known.name, *known.aliases) if known else (evaluated.concept,)
        if evaluated.split == "held-out" and open_to_it & {normalised(name) for name in names}:
            exposed[evaluated.concept] = None
    return tuple(exposed)


@dataclass(frozen=True)
class Costs:
    """UNet passes that erasures are expected to take, a backward pass counted as two.

    Attributes:
        passes: by the key of their cell.
        guessed: how many are what the method says of itself, for want of finished ones like them.
    """

    passes: Mapping[str, float]
    guessed: int

    @classmethod
    def of(
        cls, erasures: Iterable[PlannedCell], records: Iterable[Record], model: LoadedModel
    ) -> Costs:
        """Go by finished erasures with the same method, settings and number of concepts."""
        seen: dict[str, list[int]] = {}
        for record in records:
            if record.status == "done":
                seen.setdefault(_like(record.cell.identity), []).append(record.unet_passes)
        passes, guessed = {}, 0
        for planned in erasures:
            known = seen.get(_like(planned.cell.identity))
            if known:
                expected = sum(known) / len(known)
            else:
                guessed += 1
                plan = plan_erasure(model, planned.erasure, planned.cell.method, planned.settings)
                expected = plan.expected_passes() or 0.0
            passes[planned.cell.key] = expected
        return cls(passes, guessed)

    @property
    def total(self) -> float:
        return sum(self.passes.values())


NO_COSTS = Costs({}, 0)


def _like(identity: Mapping[str, Any]) -> str:
    made_by = identity["erasure"]
    return f"{made_by['method']} {made_by['settings']} {len(made_by['erasure']['erased'])}"


def typed_sets(text: str | None, more: Iterable[str] = ()) -> list[str]:
    """The erased sets that a user typed, each as one text for `parse_erased_sets`.

    Args:
        text: "a,b+c", see `split_cases`; or a text file, an erased set a line.
        more: further ones, each typed alone.

    Raises:
        ConceptError: a quote is not closed.
        ConfigError: the file can't be read.
    """
    if text is None or not text.endswith(".txt"):
        return [*(split_cases(text) if text is not None else ()), *more]
    try:
        lines = Path(text).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The concepts {text!r} can't be read: {error}; name a text file with what to erase, "
            "a line each."
        ) from error
    return [*(line for line in lines if line.strip()), *more]


def parse_erased_sets(sets: str | Iterable[str], model: LoadedModel) -> tuple[Erasure, ...]:
    """Erased sets of texts such as "b+c", with kinds and aliases from the model's list.

    One text of several sets is split as `typed_sets` does.

    Raises:
        ConceptError: an empty concept, one that does not fit the tokenizer, one twice in a set, or
            a set twice.
    """
    texts = typed_sets(sets) if isinstance(sets, str) else list(sets)
    found: dict[frozenset[str], str] = {}
    for text in texts:
        names = frozenset(map(normalised, split_concepts(text)))
        if names in found:
            raise ConceptError(
                f"The erased set {text!r} stands twice (as {found[names]!r}); name each once."
            )
        found[names] = text
    return tuple(Erasure(tuple(map(model.concept, split_concepts(text)))) for text in texts)


def generation_identity(suite: Suite, model: LoadedModel) -> dict[str, Any]:
    """How images are drawn."""
    own, scale, scheduler = model.descriptor, suite.guidance_scale, model.pipeline.scheduler
    config = {k: str(v) for k, v in dict(scheduler.config).items() if not k.startswith("_")}
    return {
        "num_inference_steps": suite.num_inference_steps or own.num_inference_steps,
        "guidance_scale": own.guidance_scale if scale is None else scale,
        "scheduler": content_key([type(scheduler).__name__, config]),
        "autoencoder": hash_weights([model.pipeline.vae]),
        "dtype": str(model.family.dtype),
        "batch": PAGE,
        "erasekit": erasekit.__version__,
        "source": source_hash(SAMPLING),
    }


def _erasure_identity(
    model: LoadedModel, method: str, settings: Mapping[str, Any], erasure: Erasure, seed: int
) -> dict[str, Any]:
    """How an edit is made."""
    descriptor = model.registry.method(method)
    return {
        "model": model.hash,
        "model_concepts": content_key([asdict(concept) for concept in model.concepts]),
        "method": method,
        "target": descriptor.target,
        "plugin": _plugin(model.registry.owner(descriptor)),
        "settings": {k: v for k, v in settings.items() if k not in WITHOUT_EFFECT},
        "erasure": asdict(erasure),
        "seed": seed,
        "erasekit": erasekit.__version__,
        "source": source_hash(TRAINING),
    }


def _plugin(owner: str) -> str:
    distribution = owner.partition(":")[0]
    try:
        return f"{distribution} {version(distribution)}"
    except Exception:  # registered in a test or a script, not installed
        return owner


@cache
def source_hash(parts: tuple[str, ...]) -> str:
    """16 hex digits over the .py files of these parts of the package, by path and content."""
    root = Path(erasekit.__file__).parent
    digest = hashlib.sha256()
    for part in sorted(parts):
        for path in sorted([root / part] if part.endswith(".py") else (root / part).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name not in RESOLVED:
                text = path.read_bytes().replace(b"\r\n", b"\n")
                digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


def steps_along(fractions: Sequence[float], steps: int) -> tuple[int, ...]:
    """The steps of a run of `steps` that lie at these fractions of it, but for its last.

    Raises:
        ConfigError: a fraction that is not between 0 and 1.
    """
    for fraction in fractions:
        if not 0 < fraction < 1:
            raise ConfigError(
                f"--along has {fraction:g}; give fractions of a run above 0 and below 1, as in "
                "--along 0.25,0.5,0.75."
            )
    return tuple(sorted({round(fraction * steps) for fraction in fractions} - {0, steps}))

"""Methods x cases x erasure seeds, and the cells they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from erasekit.bench.along import steps_along
from erasekit.bench.identity import erasure_identity, evaluation_identity
from erasekit.bench.prompts import EvaluatedConcept
from erasekit.bench.suite import Suite
from erasekit.concepts import Erasure, normalised
from erasekit.diffusion.concept_space import words_for
from erasekit.diffusion.sampling import check_steps
from erasekit.errors import ConfigError, nearest_name
from erasekit.metrics.judges.judges import Judges
from erasekit.metrics.judges.labels import LabelSet
from erasekit.models.loading import LoadedModel
from erasekit.plugin.registry import Registry
from erasekit.records import Cell, content_key
from erasekit.training.plan import plan_erasure, settings_groups, uses_concept_space


@dataclass(frozen=True)
class Sweep:
    """What to run.

    Attributes:
        suite: how it is evaluated.
        methods: names of methods, each once.
        cases: the erased sets.
        seeds: the erasure seeds.
        settings: hyperparameters; each goes to the methods that have it.
    """

    suite: Suite
    methods: tuple[str, ...]
    cases: tuple[Erasure, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedCell:
    """A cell with what it takes to run it.

    Attributes:
        cell: the cell.
        erasure: what goes.
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
class PlannedCase:
    """A case with its pages, labels and cells."""

    erasure: Erasure
    pages: tuple[tuple[EvaluatedConcept, ...], ...]
    labels: LabelSet
    cells: tuple[PlannedCell, ...]

    @property
    def images(self) -> int:
        """Images of one evaluation."""
        return sum(len(concept.noises) for page in self.pages for concept in page)


def plan_cases(
    sweep: Sweep, model: LoadedModel, judges: Judges, registry: Registry
) -> tuple[PlannedCase, ...]:
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
    _check_once("methods", sweep.methods)
    suite = completed(sweep.suite, model, registry).fitting(model.family.check_prompt)
    sweep = replace(sweep, suite=suite)
    check_steps(model.pipeline, suite.num_inference_steps or model.descriptor.num_inference_steps)
    by_method = share_settings(sweep.methods, sweep.settings, registry)
    return tuple(
        _plan_case(sweep, case, by_method, model, judges, registry) for case in sweep.cases
    )


def completed(suite: Suite, model: LoadedModel, registry: Registry) -> Suite:
    """`suite` with the words of the model's concept space that it asks for, if it lacks them.

    Raises:
        UnknownNameError: the model's concept space is not registered.
        MissingExtraError: its words need a package that is not installed.
    """
    if not suite.words:
        return suite
    return suite.with_words(words_for(model))


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


def _plan_case(
    sweep: Sweep,
    erasure: Erasure,
    by_method: Mapping[str, Mapping[str, Any]],
    model: LoadedModel,
    judges: Judges,
    registry: Registry,
) -> PlannedCase:
    suite = sweep.suite
    erasure = replace(erasure, withheld=suite.withheld(erasure))
    pages = tuple(tuple(page) for page in suite.evaluate(erasure))
    labels = judges.labels(LabelSet(suite.classes(), suite.label))
    for concept in erasure.erased:
        labels = judges.including(labels, concept.names)
    evaluation = evaluation_identity(suite, model, judges, labels, pages)
    cells = []
    for method in sweep.methods:
        own = by_method[method]
        resolved = plan_erasure(model, method, erasure, own, registry=registry).settings
        kept = words_kept(method, resolved, erasure, model, registry)
        exposed = _exposed(suite, erasure, pages, kept)
        steps = int(resolved["steps"])
        stops = steps_along(suite.along, steps)
        for seed in sweep.seeds:
            made_by = erasure_identity(model, method, resolved, erasure, seed, registry)
            identity: dict[str, Any] = {"erasure": made_by, "evaluation": evaluation}
            if stops:
                identity["along"] = list(stops)
            along = tuple((stop, content_key({**made_by, "after_steps": stop})) for stop in stops)
            cell = Cell(method, erasure.label, seed, identity)
            cells.append(
                PlannedCell(cell, erasure, own, content_key(made_by), exposed, steps, along)
            )
    return PlannedCase(erasure, pages, labels, tuple(cells))


def words_kept(
    method: str,
    settings: Mapping[str, Any],
    erasure: Erasure,
    model: LoadedModel,
    registry: Registry,
) -> list[str]:
    """Words that a run may keep on purpose: those that were named, else its concept space's.

    Args:
        method: the method's name.
        settings: all hyperparameters of the run; `keep` names words, where a method has it.
        erasure: what goes and what the user names to keep.
        model: whose words a concept space defaults to.
        registry: where the method is registered.
    """
    named = [*erasure.keep, *settings.get("keep", ())]
    if named or not uses_concept_space(registry.method(method), registry, settings):
        return named
    source = settings.get("concept_space") or model.descriptor.concept_space
    return words_for(model, source)


def _exposed(
    suite: Suite,
    erasure: Erasure,
    pages: Iterable[Iterable[EvaluatedConcept]],
    kept: Iterable[str],
) -> tuple[str, ...]:
    """Held-out concepts that are all the same among what a run may keep on purpose."""
    open_to_it = {normalised(word) for word in kept}
    open_to_it -= {normalised(name) for name in erasure.withheld}
    exposed = []
    for evaluated in (evaluated for page in pages for evaluated in page):
        known = suite.known([evaluated.concept])
        names = (known.name, *known.aliases) if known else (evaluated.concept,)
        if evaluated.role == "held-out" and open_to_it & {normalised(name) for name in names}:
            exposed.append(evaluated.concept)
    return tuple(dict.fromkeys(exposed))


def _check_once(what: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ConfigError(f"No {what}; name one or more, as in --methods neutral,gumbel.")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name!r} stands twice among the {what}; name each once.")

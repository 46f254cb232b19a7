"""What a plugin registers: torch-free descriptors whose `target` is imported when needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from erasekit.errors import ErasekitError, PluginError


@dataclass(frozen=True)
class Descriptor:
    """A registered thing.

    Attributes:
        name: what the user types.
        summary: one line for listings.
        target: where it lives, "package.module:Attribute"; imported on first use.
        reference: paper or page it comes from.
        options: keyword arguments given to the target when it is built.
    """

    name: str
    summary: str
    target: str
    reference: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    kind = "thing"

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            PluginError: it can't be imported.
            ErasekitError: what its module raises of this tree, such as a missing extra.
        """
        module_name, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except ErasekitError:
            raise
        except (Exception, SystemExit) as error:  # a plugin's module may fail in any way
            raise PluginError(
                f"The {self.kind} {self.name!r} points at {self.target!r}, which can't be "
                f"imported ({error}); mend or uninstall its plugin."
            ) from error


@dataclass(frozen=True)
class MethodDescriptor(Descriptor):
    """An erasure method: target is an `ErasureMethod` class.

    For a method of the one-erase-term family, `options={"strategy": NAME}` names the
    preservation strategy, and the target is `erasekit.methods.gradient:GradientErasure`.

    Attributes:
        defaults: hyperparameters that suit this method, by model name, "*" for all models. Those
            of a model give way to what its own registration says of this method by name.
    """

    kind = "method"

    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class StrategyDescriptor(Descriptor):
    """A preservation strategy: target is a `PreservationStrategy` class."""

    kind = "strategy"


class InferenceDescriptor(Descriptor):
    """What an edit does while a pipeline draws: target is an `InferencePart` class.

    Edits name it in `edit.json`, so the name must not change from one version to the next.
    """

    kind = "inference part"


@dataclass(frozen=True)
class AttackDescriptor(Descriptor):
    """An attack on erased models: target is an `Attack` class.

    Attributes:
        needs: what it can't do without: "tokens" (a family whose prompts CLIP reads), "pictures"
            (of the concept), "prompts" (the user's).
        budgets: hyperparameters by budget, such as "small"; its own defaults are as published.
    """

    kind = "attack"

    needs: tuple[str, ...] = ()
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class ScorerDescriptor(Descriptor):
    """A scorer: target is a `Scorer` class (or a function that returns one)."""

    kind = "scorer"


class MetricDescriptor(Descriptor):
    """A metric: target is a `Metric` class."""

    kind = "metric"


class SuiteDescriptor(Descriptor):
    """A suite: target is a `Suite`, or a function `(ModelDescriptor) -> Suite`."""

    kind = "suite"


class ConceptSpaceDescriptor(Descriptor):
    """A source of words: target is a function `(LoadedModel) -> list[str]`."""

    kind = "concept space"


@dataclass(frozen=True)
class FamilyDescriptor(Descriptor):
    """A family of models: target is a `FamilyAdapter` class.

    Attributes:
        pipelines: class names of the diffusers pipelines whose models are of this family.
        pipeline_options: keyword arguments given to such a pipeline when it is loaded.
        guidance_scale: of `ModelDescriptor`, for models of the family that nobody registered.
        num_inference_steps: the same.
        defaults: the same.
    """

    kind = "family"

    pipelines: tuple[str, ...] = ()
    pipeline_options: Mapping[str, Any] = field(default_factory=dict)
    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelDescriptor(Descriptor):
    """A model: `target` is a function `() -> str` that gives a folder or a hub id.

    Attributes:
        family: name of its family, such as "sd1"; "" recognises it from the pipeline.
        concepts: target of a function `() -> list[ModelConcept]`, or "" where the model has no
            list of its own.
        scorer: name of the scorer that suits this model.
        concept_space: default source of R for this model.
        guidance_scale: guidance that serves this model best.
        num_inference_steps: sampling steps for images.
        defaults: hyperparameters for this model, by method name, "*" for all methods.
        suites: scale of a suite on this model, by suite name.
    """

    kind = "model"

    family: str = ""
    concepts: str = ""
    scorer: str = ""
    concept_space: str = "vocabulary"
    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    suites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConcept:
    """A concept that a model is known to draw.

    Attributes:
        name: the prompt that draws it.
        kind: see `erasekit.concepts.Kind`.
        family: the group of near neighbours it belongs to.
        split: "pool" (methods may keep it on purpose) or "held-out" (only evaluation uses it).
        aliases: other names.
        styles: the styles it is drawn in.
    """

    name: str
    kind: str
    family: str
    split: str
    aliases: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()

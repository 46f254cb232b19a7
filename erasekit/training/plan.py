"""What a run will be: its hyperparameters, from method, strategy, model and user, and its scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from erasekit.concepts import Erasure
from erasekit.config import Settings, flatten, resolve
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConfigError, PluginError
from erasekit.methods.base import ErasureContext, ErasureMethod
from erasekit.models.loading import LoadedModel
from erasekit.plugin.descriptors import MethodDescriptor, ModelDescriptor
from erasekit.plugin.registry import Registry
from erasekit.recipes import shipped_recipe


class TrainingSettings(Settings):
    """What the Trainer needs, whatever the method."""

    steps: int = Field(1000, gt=0, description="outer steps")
    learning_rate: float = Field(1e-5, gt=0, description="Adam's learning rate")
    scope: str = Field(
        "auto",
        description="parameters that may change: xattn, xattn-kv, noxattn, selfattn, full, "
        "re:PATTERN; auto follows the concept's kind",
    )
    checkpoint_every: int = Field(
        100, ge=0, description="outer steps between two checkpoints; 0 saves on Ctrl-C alone"
    )
    max_grad_norm: float = Field(0.0, ge=0, description="clip the gradient's norm; 0 does not clip")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="what the UNet computes in; trained weights are kept in fp32; auto follows "
        "what the model is stored in",
    )
    accumulate: int = Field(
        1,
        gt=0,
        description="parts that a batch is trained in, one after another (gradient accumulation)",
    )
    gradient_checkpointing: bool = Field(
        False, description="keep less for the backward pass, and compute it again"
    )
    compile_unet: str = Field(
        "",
        description="torch.compile the UNet with this backend, such as inductor: minutes of "
        "warm-up, then faster steps; for long runs",
    )
    optimizer: Literal["adam", "adam8bit"] = Field(
        "adam", description="adam8bit keeps its moments in 8 bits (extra '8bit', GPU)"
    )
    offload: bool = Field(
        False, description="VAE and text encoders wait on the CPU while the UNet is trained"
    )
    max_memory: float = Field(
        0.0,
        ge=0,
        description="GiB that a run may take; what is needed of the above is switched on; 0: any",
    )


def settings_groups(descriptor: MethodDescriptor, registry: Registry) -> tuple[type[Settings], ...]:
    """The settings classes of a method: the Trainer's, its own, its strategy's.

    Raises:
        PluginError: the method or its strategy can't be imported, or is no erasure method.
        UnknownNameError: its strategy is not registered.
    """
    groups: list[type[Settings]] = [TrainingSettings, method_class(descriptor).Config]
    if strategy := descriptor.options.get("strategy"):
        groups.append(registry.strategy(strategy).load().Config)
    return tuple(group for group in groups if group is not Settings)


def method_class(descriptor: MethodDescriptor) -> type[ErasureMethod]:
    """The class that a method's registration points at; a PluginError where it is no method."""
    target = descriptor.load()
    if not (isinstance(target, type) and issubclass(target, ErasureMethod)):
        raise PluginError(
            f"The method {descriptor.name!r} points at {descriptor.target!r}, which is no "
            "ErasureMethod; mend or uninstall its plugin."
        )
    return target


def uses_concept_space(
    descriptor: MethodDescriptor, registry: Registry, settings: Mapping[str, Any]
) -> bool:
    """Whether a run by this method, or by its strategy, may keep words of its concept space."""
    if strategy := descriptor.options.get("strategy"):
        return bool(registry.strategy(strategy).load().uses_concept_space)
    return method_class(descriptor).uses_concept_space(settings)


def resolve_settings(
    descriptor: MethodDescriptor,
    registry: Registry,
    model: ModelDescriptor | None = None,
    recipe: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Settings, ...]:
    """The settings of a run, one instance per group of `settings_groups`.

    Later wins: defaults of the classes, the method's class's, its registration's for all models,
    the model's for all methods, the method's for this model, the model's for this method, the
    recipe, the overrides. The model's for all methods apply where a method has the key and neither
    its class nor its registration sets it; a shipped recipe, which is given by its name, where
    the method has the key.

    Raises:
        ConfigError: an unknown key, an ill-typed value, or a value out of range.
    """
    groups = settings_groups(descriptor, registry)
    known = {name for group in groups for name in group.model_fields}
    first = {**method_class(descriptor).training_defaults, **descriptor.defaults.get("*", {})}
    layers: list[Mapping[str, Any]] = [first]
    if model is not None:
        general = model.defaults.get("*", {}).items()
        layers += [
            {k: v for k, v in general if k in known and k not in first},
            descriptor.defaults.get(model.name, {}),
            model.defaults.get(descriptor.name, {}),
        ]
    if isinstance(recipe, str):
        shipped = shipped_recipe(recipe, model.name if model else "")
        recipe = {key: value for key, value in shipped.items() if key in known}
    return resolve(groups, [*layers, recipe or {}, overrides or {}], f"method {descriptor.name!r}")


def build_method(
    descriptor: MethodDescriptor, registry: Registry, settings: tuple[Settings, ...]
) -> ErasureMethod:
    """The method with its settings and, where it has one, its strategy."""
    by_type = {type(group): group for group in settings}
    target = method_class(descriptor)
    options = dict(descriptor.options)
    if name := options.pop("strategy", None):
        strategy = registry.strategy(name).load()
        options["strategy"] = strategy(by_type.get(strategy.Config, Settings()))
    return target(by_type.get(target.Config, Settings()), **options)


@dataclass(frozen=True)
class Plan:
    """All that a run follows from, checked, made once and passed on.

    Attributes:
        model: what is edited.
        method: registered name.
        erasure: what goes, towards what, what stays.
        seed: of the run; the same seed on the same machine gives the same edit.
        groups: the settings, one instance per group of `settings_groups`.
        scope: which parameters may change; "auto" is resolved.
        registry: everything that is registered.
        memory: what was switched on to fit into `max_memory`, in a sentence, or "".
        memory_limit: bytes that a pass without gradient may take; None: half of what is free.
    """

    model: LoadedModel
    method: str
    erasure: Erasure
    seed: int
    groups: tuple[Settings, ...]
    scope: ParameterScope
    registry: Registry
    memory: str = ""
    memory_limit: int | None = None

    @property
    def training(self) -> TrainingSettings:
        """What the Trainer needs, whatever the method."""
        return next(group for group in self.groups if isinstance(group, TrainingSettings))

    @property
    def settings(self) -> dict[str, Any]:
        """Every hyperparameter as one JSON-ready mapping; the scope as it was asked for."""
        return flatten(self.groups)

    @property
    def concepts(self) -> list[str]:
        """The erased concepts."""
        return [concept.text for concept in self.erasure.erased]

    def build(self) -> ErasureMethod:
        """The method, not prepared yet; a new one each time."""
        return build_method(self.registry.method(self.method), self.registry, self.groups)

    def context(self, **rest: Any) -> ErasureContext:
        """What the method works on, without parameters yet; `rest` are further fields of it."""
        model, erasure, steps = self.model, self.erasure, self.training.steps
        return ErasureContext(model, erasure, self.registry, self.seed, {}, steps=steps, **rest)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The UNet's parameters in scope, by name."""
        return self.scope.select(self.model.unet)

    def expected_passes(self) -> float | None:
        """Forward passes of the run, a backward pass counting as two; None: nobody knows."""
        return self.build().expected_passes(self.context(), self.training.steps)


def plan_erasure(
    model: LoadedModel,
    erasure: Erasure,
    method: str = "gumbel",
    settings: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | str | None = None,
    *,
    registry: Registry | None = None,
    seed: int = 0,
) -> Plan:
    """Check everything that can be checked before work begins, and gather it.

    See `erasekit.training.erase.erase` for the arguments.

    Raises:
        UnknownNameError: no such method or scope.
        ConfigError: an unknown or ill-typed hyperparameter, or too little memory.
        ConceptError: a concept does not fit the tokenizer.
        ScopeError: the scope selects nothing.
    """
    registry = registry or model.registry
    groups = resolve_settings(registry.method(method), registry, model.descriptor, recipe, settings)
    training = next(group for group in groups if isinstance(group, TrainingSettings))
    scope = resolve_scope(training.scope, erasure)
    plan = Plan(model, method, erasure, seed, groups, scope, registry)
    parameters = plan.parameters()
    if any(parameter.is_inference() for parameter in parameters.values()):
        raise ConfigError(
            "The model was loaded under torch.inference_mode(), so it can't be trained; load it "
            "outside."
        )
    known = torch.compiler.list_backends(exclude_tags=()) if training.compile_unet else [""]
    if training.compile_unet not in known:
        raise ConfigError(
            f"Setting compile_unet={training.compile_unet!r} is no backend of torch.compile; use "
            f"one of {', '.join(sorted(known))}."
        )
    for prompt in (*plan.concepts, *erasure.keep, erasure.neutral):
        model.family.check_prompt(prompt)
    if not training.max_memory:
        return plan
    from erasekit.training.memory import fit_memory, memory_needs

    needs = memory_needs(model.family, parameters, plan.build().expected_memory(plan.context()))
    chosen = fit_memory(needs, training.model_dump(), training.max_memory)
    fitting = training.model_copy(update=dict(chosen.choices))
    groups = tuple(fitting if group is training else group for group in groups)
    return replace(plan, groups=groups, memory=chosen.text, memory_limit=chosen.passing)


def resolve_scope(scope: str, erasure: Erasure) -> ParameterScope:
    """The scope of a run; "auto" follows the kinds of the erased concepts."""
    if scope == "auto":
        return ParameterScope.for_concepts(erasure.erased)
    return ParameterScope(scope)

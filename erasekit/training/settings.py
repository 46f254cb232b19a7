"""The hyperparameters of a run, gathered from method, strategy, model and user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from erasekit.config import Settings, resolve, shipped_recipe
from erasekit.errors import PluginError
from erasekit.methods.base import ErasureMethod
from erasekit.plugin.descriptors import MethodDescriptor, ModelDescriptor
from erasekit.plugin.registry import Registry


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
        1, gt=0, description="parts a batch goes through the UNet in, one after another"
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
    """The class that a method's registration points at.

    Raises:
        PluginError: it can't be imported, or is no erasure method.
    """
    target = descriptor.load()
    if not (isinstance(target, type) and issubclass(target, ErasureMethod)):
        raise PluginError(
            f"The method {descriptor.name!r} points at {descriptor.target!r}, which is no "
            "ErasureMethod; mend or uninstall its plugin."
        )
    return target


def default_layers(
    descriptor: MethodDescriptor, model: ModelDescriptor | None
) -> list[Mapping[str, Any]]:
    """Defaults that override those of the classes.

    The method's class's, its registration's for all models, the model's for all methods, the
    method's for this model, the model's for this method. The model's general ones leave alone
    what the first two set.
    """
    everywhere = descriptor.defaults.get("*", {})
    first = {**method_class(descriptor).training_defaults, **everywhere}
    if model is None:
        return [first]
    general = {k: v for k, v in model.defaults.get("*", {}).items() if k not in first}
    own = model.defaults.get(descriptor.name, {})
    return [first, general, descriptor.defaults.get(model.name, {}), own]


def resolve_settings(
    descriptor: MethodDescriptor,
    registry: Registry,
    model: ModelDescriptor | None = None,
    recipe: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Settings, ...]:
    """The settings of a run, one instance per group of `settings_groups`.

    Later wins: class defaults, the method's, the model's (`default_layers`), the recipe, the
    overrides. The model's general defaults ("*") apply where a method has the key and sets no
    default of its own; a shipped recipe, which is given by its name, where it has the key.

    Raises:
        ConfigError: an unknown key, an ill-typed value, or a value out of range.
    """
    groups = settings_groups(descriptor, registry)
    known = {name for group in groups for name in group.model_fields}
    layers = default_layers(descriptor, model)
    if model is not None:
        layers[1] = {k: v for k, v in layers[1].items() if k in known}
    if isinstance(recipe, str):
        shipped = shipped_recipe(recipe, model.name if model else "")
        recipe = {key: value for key, value in shipped.items() if key in known}
    return resolve(groups, [*layers, recipe or {}, overrides or {}], f"method {descriptor.name!r}")


def build_method(
    descriptor: MethodDescriptor, registry: Registry, settings: tuple[Settings, ...]
) -> tuple[TrainingSettings, ErasureMethod]:
    """The Trainer's settings and the built method.

    Raises:
        PluginError: the method or its strategy can't be imported, or is no erasure method.
    """
    by_type = {type(group): group for group in settings}
    training = by_type[TrainingSettings]
    assert isinstance(training, TrainingSettings)
    target = method_class(descriptor)
    options = dict(descriptor.options)
    if name := options.pop("strategy", None):
        strategy = registry.strategy(name).load()
        options["strategy"] = strategy(by_type.get(strategy.Config, Settings()))
    return training, target(by_type.get(target.Config, Settings()), **options)

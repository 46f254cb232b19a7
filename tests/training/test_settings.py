"""Where a run's hyperparameters come from, and which ones win."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable

import pytest
from pydantic import Field

from erasekit.config import Settings
from erasekit.errors import ConfigError, PluginError, UnknownNameError
from erasekit.methods.base import ErasureContext, ErasureMethod
from erasekit.plugin.descriptors import MethodDescriptor, ModelDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.recipes import shipped_recipe
from erasekit.training.plan import (
    TrainingSettings,
    build_method,
    resolve_settings,
    settings_groups,
)


class OwnConfig(Settings):
    strength: float = Field(1.0, gt=0, description="how strong")
    words: str = Field("some", description="which words")


class Own(ErasureMethod):
    Config = OwnConfig
    training_defaults = {"steps": 11, "learning_rate": 0.11}  # noqa: RUF012

    def prepare(self, context: ErasureContext) -> None:
        pass

    def training_step(self, step: int) -> None:
        return None


class NoMethod:
    """A target that is no method."""


class Hooks:
    @hookimpl
    def erasekit_register_methods(self) -> Iterable[MethodDescriptor]:
        home = "tests_of_settings"
        return [
            MethodDescriptor("own", "", f"{home}:Own"),
            MethodDescriptor("wrong", "", f"{home}:NoMethod"),
            MethodDescriptor("odd", "", f"{home}:Own", "", {"colour": "red"}),
            MethodDescriptor("tuned", "", f"{home}:Own", defaults={"m": {"strength": 7.0}}),
            MethodDescriptor(
                "variant", "", f"{home}:Own", defaults={"*": {"scope": "full", "steps": 5}}
            ),
        ]


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    module = types.ModuleType("tests_of_settings")
    module.Own, module.NoMethod = Own, NoMethod  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_of_settings", module)
    manager = PluginManager()
    manager.register(Hooks(), "under test")
    return Registry(manager)


def values(registry, name="own", model=None, recipe=None, overrides=None) -> dict:
    groups = resolve_settings(registry.method(name), registry, model, recipe, overrides)
    return {key: value for group in groups for key, value in group}


def model_with(**defaults) -> ModelDescriptor:
    return ModelDescriptor("m", "", "", defaults=defaults)


def test_each_layer_wins_over_those_before(own_registry) -> None:
    general = model_with(**{"*": {"strength": 2.0, "steps": 22}})
    own = model_with(**{"*": {"strength": 2.0, "steps": 22}, "own": {"strength": 3.0, "steps": 33}})
    assert values(own_registry)["strength"] == 1.0
    assert values(own_registry)["steps"] == 11  # the method's, over the class's 1000
    found = values(own_registry, model=general)
    assert (found["strength"], found["steps"]) == (2.0, 11)
    found = values(own_registry, model=own)
    assert (found["strength"], found["steps"]) == (3.0, 33)
    found = values(own_registry, model=own, recipe={"strength": 4, "steps": 44})
    assert (found["strength"], found["steps"]) == (4.0, 44)
    found = values(own_registry, model=own, recipe={"strength": 4}, overrides={"strength": "5"})
    assert (found["strength"], found["steps"]) == (5.0, 33)
    assert found["checkpoint_every"] == TrainingSettings().checkpoint_every


def test_a_method_s_defaults_for_a_model_lie_between_the_model_s_general_and_own(
    own_registry,
) -> None:
    general = {"*": {"strength": 2.0, "words": "all"}}
    found = values(own_registry, "tuned", model_with(**general))
    assert (found["strength"], found["words"]) == (7.0, "all")
    own = model_with(**general, tuned={"strength": 3.0})
    assert values(own_registry, "tuned", own)["strength"] == 3.0
    other = ModelDescriptor("other", "", "", defaults=general)
    assert values(own_registry, "tuned", other)["strength"] == 2.0
    assert values(own_registry, "own", model_with(**general))["strength"] == 2.0


def test_a_registration_may_vary_a_method_on_all_models(own_registry) -> None:
    for model in (None, model_with(**{"*": {"steps": 22, "strength": 2.0}})):
        found = values(own_registry, "variant", model)
        assert (found["scope"], found["steps"]) == ("full", 5)
        assert found["strength"] == (2.0 if model else 1.0)


def test_general_defaults_reach_only_methods_that_have_the_key(registry) -> None:
    model = model_with(**{"*": {"num_concepts": 7, "steps": 9}, "gumbel": {"centres": 3}})
    assert values(registry, "gumbel", model)["num_concepts"] == 7
    assert values(registry, "gumbel", model)["centres"] == 3
    assert values(registry, "random", model)["centres"] == 0
    assert values(registry, "neutral", model)["steps"] == 9
    assert "num_concepts" not in values(registry, "neutral", model)


def test_every_method_s_settings_have_help_and_no_key_twice(registry) -> None:
    for descriptor in registry.methods().values():
        groups = settings_groups(descriptor, registry)
        assert TrainingSettings in groups
        names = [name for group in groups for name in group.model_fields]
        assert len(names) == len(set(names))
        for group in groups:
            for name, info in group.model_fields.items():
                assert info.description, f"{group.__name__}.{name} has no help"


def test_a_shipped_recipe_applies_where_a_method_has_the_key() -> None:
    registry = Registry()
    for method in ("gumbel", "neutral", "l2"):
        found = values(registry, method, recipe="published", overrides={"steps": 7})
        assert (found["loss_space"], found["timesteps"], found["steps"]) == ("z0", "bin", 7)
        assert ("shared_ascent" in found) == (method == "gumbel")
    with pytest.raises(ConfigError, match="Unknown setting 'shared_ascent'"):
        values(registry, "neutral", recipe={"shared_ascent": True})
    with pytest.raises(ConfigError, match="Unknown recipe 'slow'"):
        values(registry, "gumbel", recipe="slow")


def test_stable_diffusion_has_the_published_recipe_by_default() -> None:
    registry, recipe = Registry(), shipped_recipe("published")
    others = [model for name, model in registry.models().items() if name != "icons"]
    assert len(others) > 3
    for model in others:
        found = values(registry, "gumbel", model=model)
        assert {key: found[key] for key in recipe} == recipe


@pytest.mark.parametrize("layer", ["recipe", "overrides"])
def test_an_unknown_key_names_the_nearest(registry, layer: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"Unknown setting 'temprature' of method 'gumbel'; did you mean 'temperature'\?",
    ):
        values(registry, "gumbel", **{layer: {"temprature": 3}})


def test_a_key_of_another_method_is_unknown(registry) -> None:
    with pytest.raises(ConfigError, match="Unknown setting 'eta' of method 'neutral'"):
        values(registry, "neutral", overrides={"eta": 0.1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("steps", -1),
        ("steps", "many"),
        ("steps", 1.5),
        ("temperature", 0),
        ("temperature", "hot"),
        ("hard", "perhaps"),
        ("loss_space", "pixels"),
        ("keep_weight", -0.1),
        ("learning_rate", "nan"),
        ("learning_rate", "inf"),
        ("temperature", "inf"),
    ],
)
def test_an_ill_typed_value_or_one_out_of_range_names_itself(registry, key, value) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        values(registry, "gumbel", overrides={key: value})
    assert str(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_is_read_as_the_field_s_type(registry) -> None:
    found = values(
        registry,
        "gumbel",
        overrides={"steps": "7", "learning-rate": "1e-3", "hard": "false", "scope": "full"},
    )
    assert found["steps"] == 7
    assert found["learning_rate"] == 1e-3
    assert found["hard"] is False


def test_a_strategy_that_is_not_registered(own_registry) -> None:
    descriptor = MethodDescriptor(
        "lost", "", "erasekit.methods.gradient:GradientErasure", "", {"strategy": "gumble"}
    )
    with pytest.raises(UnknownNameError, match=r"Unknown strategy 'gumble'; did you mean 'gumbel'"):
        settings_groups(descriptor, own_registry)


def test_a_target_that_is_no_method_is_the_plugin_s_fault(own_registry) -> None:
    with pytest.raises(PluginError, match=r"'wrong' points at 'tests_of_settings:NoMethod'"):
        values(own_registry, "wrong")


def test_building_gives_the_method_its_own_settings(own_registry) -> None:
    descriptor = own_registry.method("own")
    plan = resolve_settings(descriptor, own_registry, None, {}, {"strength": 9, "steps": 2})
    method = build_method(descriptor, own_registry, plan)
    assert isinstance(method, Own)
    assert method.config.strength == 9

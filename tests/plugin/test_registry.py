"""Names to descriptors, over all plugins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from erasekit.errors import PluginError, UnknownNameError
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry

Install = Callable[..., None]

HOOKS = {
    "methods": "MethodDescriptor",
    "strategies": "StrategyDescriptor",
    "scorers": "ScorerDescriptor",
    "metrics": "MetricDescriptor",
    "suites": "SuiteDescriptor",
    "concept_spaces": "ConceptSpaceDescriptor",
    "models": "ModelDescriptor",
}


def hook(kind: str, *names: str, result: str = "") -> str:
    made = ", ".join(f'{HOOKS[kind]}("{name}", "summary", "module:Name")' for name in names)
    return f"@hookimpl\ndef erasekit_register_{kind}():\n    return {result or f'[{made}]'}\n"


def error_of(registry: Registry, plugin: str) -> str | None:
    registry.collisions()  # asks for all
    return next(p.error for p in registry.manager.plugins if p.name == plugin)


@pytest.mark.parametrize("kind", HOOKS)
def test_every_kind_is_found_by_name_and_in_the_listing(install: Install, kind: str) -> None:
    install("acme", hook(kind, "thing"))
    registry = Registry()
    descriptor = getattr(registry, kind)()["thing"]
    one = {"strategies": "strategy"}.get(kind, kind.removesuffix("s"))
    assert getattr(registry, one)("thing") is descriptor
    assert registry.owner(descriptor) == "acme:main"
    assert error_of(registry, "acme:main") is None


def test_an_unknown_name_suggests_the_nearest(install: Install) -> None:
    install("acme", hook("methods", "folding"))
    with pytest.raises(UnknownNameError, match="Unknown method 'foldng'; did you mean 'folding'"):
        Registry().method("foldng")


def test_two_plugins_that_claim_one_name_are_an_error_that_names_both(install: Install) -> None:
    install("acme", hook("methods", "fold", "spin"))
    install("bolt", hook("methods", "fold", "turn"))
    registry = Registry()
    sentence = "The method 'fold' is claimed by 'acme:main' and 'bolt:main'; uninstall one of them."
    with pytest.raises(PluginError) as caught:
        registry.method("fold")
    assert str(caught.value) == sentence
    assert registry.collisions() == [sentence]
    assert "fold" not in registry.methods()
    assert registry.method("spin").name == "spin"
    assert registry.method("turn").name == "turn"


def test_a_third_party_can_not_shadow_a_built_in_name(install: Install) -> None:
    built_in = next(iter(Registry().models()))
    install("acme", hook("models", built_in))
    with pytest.raises(PluginError, match=r"'erasekit:\w+' and 'acme:main'"):
        Registry().model(built_in)


def test_a_name_twice_in_one_plugin_is_an_error_too(install: Install) -> None:
    install("acme", hook("methods", "fold", "fold"))
    with pytest.raises(PluginError, match="registered twice by 'acme:main'; rename"):
        Registry().method("fold")


def test_one_name_in_two_kinds_is_no_collision(install: Install) -> None:
    install("acme", hook("methods", "fold") + hook("strategies", "fold"))
    registry = Registry()
    assert registry.collisions() == []
    assert registry.owner(registry.strategy("fold")) == "acme:main"


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ("None", "TypeError: erasekit_register_methods gave None, not a list of MethodDescriptor"),
        ("['fold']", "TypeError: erasekit_register_methods gave 'fold', not a MethodDescriptor"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("(1 / 0 for _ in 'x')", "ZeroDivisionError: division by zero"),
        (
            "[SuiteDescriptor('s', '', 'a:B')]",
            "TypeError: erasekit_register_methods gave SuiteDescriptor(name='s'",
        ),
    ],
)
def test_a_hook_that_gives_no_descriptors_marks_its_plugin(
    install: Install, result: str, error: str
) -> None:
    install("acme", hook("methods", result=result) + hook("metrics", "mean-fold"))
    install("bolt", hook("methods", "spin"))
    registry = Registry()
    assert str(error_of(registry, "acme:main")).startswith(error)
    assert "spin" in registry.methods()
    assert "mean-fold" in registry.metrics()


def test_a_subclass_of_a_descriptor_is_one(install: Install) -> None:
    install(
        "acme",
        """
class Special(MethodDescriptor):
    pass

@hookimpl
def erasekit_register_methods():
    return [Special("fold", "", "a:B")]
""",
    )
    registry = Registry()
    assert registry.owner(registry.method("fold")) == "acme:main"


def test_asking_who_owns_a_stranger_raises(install: Install) -> None:
    install("acme", hook("methods", "fold"))
    stranger = Registry().method("fold")
    with pytest.raises(KeyError):
        Registry().owner(stranger)


def test_a_registry_of_no_plugins_is_empty() -> None:
    registry = Registry(PluginManager(points=[]))
    assert registry.methods() == {}
    assert registry.collisions() == []
    with pytest.raises(UnknownNameError, match=r"Unknown model 'icons'\."):
        registry.model("icons")

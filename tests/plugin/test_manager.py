"""Finding plugins: a broken one is listed with its error and breaks nothing."""

from __future__ import annotations

from collections.abc import Callable

import pluggy
import pytest

from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.manager import PluginInfo, PluginManager, describe_fault

Install = Callable[..., None]

GOOD = """
@hookimpl
def erasekit_register_methods():
    return [MethodDescriptor("fold", "folds", "fold:Fold")]
"""


def info(manager: PluginManager, name: str) -> PluginInfo:
    return next(plugin for plugin in manager.plugins if plugin.name == name)


def test_a_plugin_is_listed_with_its_distribution_and_version(install: Install) -> None:
    install("acme-fold", GOOD)
    assert info(PluginManager(), "acme-fold:main") == PluginInfo(
        "acme-fold:main", "acme-fold", "1.2", "acme_fold"
    )


def test_the_built_in_plugins_come_first_and_are_sound(install: Install) -> None:
    install("aaa", GOOD)
    plugins = PluginManager().plugins
    own = [plugin.distribution == "erasekit" for plugin in plugins]
    assert own == sorted(own, reverse=True)
    assert [p.error for p in plugins] == [None] * len(plugins)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError: invalid syntax (broken.py, line 5)"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two"),
        ("raise RuntimeError", "RuntimeError"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("", "PluginValidationError: no function is marked with @hookimpl"),
        (
            "@hookimpl\ndef erasekit_register_method(): return []",
            "PluginValidationError: unknown hook 'erasekit_register_method'",
        ),
    ],
)
def test_a_broken_plugin_is_listed_and_the_others_work(
    install: Install, source: str, error: str
) -> None:
    install("broken", source)
    install("good", GOOD)
    manager = PluginManager()
    assert info(manager, "broken:main").error == error
    assert info(manager, "good:main").error is None
    assert [name for name, _ in manager.call_each("erasekit_register_methods")][-1] == "good:main"


def test_a_plugin_that_fails_validation_leaves_none_of_its_hooks(install: Install) -> None:
    install(
        "broken",
        GOOD
        + """
@hookimpl
def erasekit_register_models(surprise): return []
""",
    )
    manager = PluginManager()
    error = info(manager, "broken:main").error
    assert error is not None
    assert error.startswith("PluginValidationError: Plugin 'broken:main' for hook")
    assert not manager.pluggy.has_plugin("broken:main")
    names = [name for name, _ in manager.call_each("erasekit_register_methods")]
    assert "broken:main" not in names


def test_one_module_behind_two_entry_points_counts_once(install: Install) -> None:
    install("twice", GOOD, points="a = twice\nb = twice")
    manager = PluginManager()
    assert info(manager, "twice:a").error is None
    assert "already registered" in str(info(manager, "twice:b").error)
    assert manager.pluggy.has_plugin("twice:a")


@pytest.mark.parametrize("fault", [KeyError, SystemExit, KeyboardInterrupt])
def test_every_hook_is_called_even_after_one_that_raises(
    install: Install, fault: type[BaseException]
) -> None:
    install("aa", f"@hookimpl\ndef erasekit_register_methods(): raise {fault.__name__}('x')")
    install("bb", GOOD)
    results = dict(PluginManager().call_each("erasekit_register_methods"))
    assert isinstance(results["aa:main"], fault)
    assert [m.name for m in results["bb:main"]] == ["fold"]  # type: ignore[attr-defined]


def test_a_hook_may_leave_out_arguments() -> None:
    class Plugin:
        @hookimpl
        def erasekit_register_commands(self) -> str:
            return "called"

    manager = PluginManager(points=[])
    manager.register(Plugin(), "own")
    assert list(manager.call_each("erasekit_register_commands", app=object())) == [
        ("own", "called")
    ]


def test_registering_an_invalid_object_raises_and_takes_it_out() -> None:
    class Plugin:
        @hookimpl
        def erasekit_register_everything(self) -> None: ...

    manager = PluginManager(points=[])
    with pytest.raises(pluggy.PluginValidationError, match="unknown hook"):
        manager.register(Plugin(), "own")
    assert manager.pluggy.get_plugins() == set()


def test_managers_share_nothing(install: Install) -> None:
    install("broken", "raise RuntimeError('no')")
    first, second = PluginManager(), PluginManager(points=[])
    assert second.plugins == []
    first.mark_broken("broken:main", "KeyError: later")
    assert info(first, "broken:main").error == "RuntimeError: no; KeyError: later"


def test_a_fault_is_described_by_class_and_first_line() -> None:
    assert describe_fault(ValueError("a\nb")) == "ValueError: a"
    assert describe_fault(KeyError()) == "KeyError"

"""`PluginTester` passes a sound plugin, and each of its tests fails on what it is there for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from erasekit import methods as built_in
from erasekit.testing import PluginTester

HOOKS = """
from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl

@hookimpl
def erasekit_register_methods():
    return [MethodDescriptor("ours", "erases", "{name}_code:Ours")]
"""
CODE = """
from erasekit.config import Settings
from erasekit.methods.base import ErasureMethod
from pydantic import Field

class Ours(ErasureMethod):
    class Config(Settings):
        own: float = Field(1.0, description="ours")
"""


class TestBuiltIn(PluginTester):
    """The built-in methods are a plugin like any other."""

    hooks = built_in
    registers = tuple(
        f"{descriptor.kind} {descriptor.name}"
        for descriptor in (
            *built_in.erasekit_register_methods(),
            *built_in.erasekit_register_strategies(),
        )
    )


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Makes a tester of a plugin with one method."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(hooks: str = HOOKS, code: str = CODE, registers: object = None) -> PluginTester:
        name = f"made_{abs(hash(request.node.nodeid)):x}"
        (tmp_path / f"{name}.py").write_text(hooks.replace("{name}", name))
        (tmp_path / f"{name}_code.py").write_text(code)
        importlib.invalidate_caches()
        module: ModuleType = importlib.import_module(name)
        for made in (name, f"{name}_code"):
            monkeypatch.delitem(sys.modules, made, raising=False)
        own = {"hooks": module, "registers": registers or ("method ours",)}
        return type("Tester", (PluginTester,), own)()

    return make


def run(tester: PluginTester) -> dict[str, str]:
    """What each test that failed said."""
    failed = {}
    for name in sorted(vars(PluginTester)):
        if name.startswith("test_"):
            try:
                getattr(tester, name)()
            except Exception as fault:
                failed[name] = str(fault)
    return failed


CLAIMS = "test_it_registers_what_it_says_and_claims_no_taken_name"
LOADS = "test_all_that_it_registers_can_be_loaded_and_is_described"
QUICK = "test_its_hooks_import_no_torch"


def test_a_sound_plugin_passes(plugin) -> None:
    assert run(plugin()) == {}


@pytest.mark.parametrize(
    ("how", "test"),
    [
        ({"registers": ("method ours", "method another")}, CLAIMS),
        ({"registers": ("strategy ours",)}, CLAIMS),
        ({"hooks": HOOKS.replace("[Method", "[object()] + [Method")}, CLAIMS),
        ({"code": CODE.replace("class Ours", "class Theirs")}, LOADS),
        ({"code": CODE.replace('description="ours"', "gt=0")}, LOADS),
        ({"hooks": HOOKS.replace('"erases"', '""')}, LOADS),
        ({"hooks": "import torch" + HOOKS}, QUICK),
    ],
    ids=["a name less", "another kind", "no descriptor", "no target", "bare", "no summary", "slow"],
)
def test_each_test_fails_on_what_it_is_there_for(plugin, how: dict[str, object], test: str) -> None:
    assert list(run(plugin(**how))) == [test]


def test_a_name_that_another_plugin_has_is_a_clash(plugin) -> None:
    tester = plugin(HOOKS.replace('"ours"', '"gumbel"'), registers=("method gumbel",))
    failed = run(tester)
    assert list(failed) == [CLAIMS]
    assert "gumbel" in failed[CLAIMS]

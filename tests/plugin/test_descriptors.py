"""Lazy targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasekit.errors import MissingExtraError, PluginError
from erasekit.plugin.descriptors import InferenceDescriptor, MethodDescriptor, ModelDescriptor
from erasekit.plugin.registry import HOOKS, Registry


def test_a_target_is_imported_when_asked_for() -> None:
    assert MethodDescriptor("m", "", "pathlib:Path").load() is Path


@pytest.mark.parametrize(
    "target", ["no.such.module:Name", "pathlib:Nothing", "pathlib", "", "pathlib:"]
)
def test_a_target_that_is_not_there_names_the_thing_and_the_target(target: str) -> None:
    with pytest.raises(PluginError, match=f"The method 'm' points at '{target}'"):
        MethodDescriptor("m", "", target).load()


def test_a_module_that_fails_in_its_own_way_is_a_plugin_error(site: Path) -> None:
    (site / "faulty.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(PluginError, match=r"model 'm' points at .* \(division by zero\)"):
        ModelDescriptor("m", "", "faulty:Name").load()


def test_a_module_that_ends_the_program_is_a_plugin_error(site: Path) -> None:
    (site / "ending.py").write_text("raise SystemExit(0)", encoding="utf-8")
    with pytest.raises(PluginError, match=r"model 'm' points at .* \(0\)"):
        ModelDescriptor("m", "", "ending:Name").load()


def test_a_missing_extra_keeps_its_own_sentence(site: Path) -> None:
    (site / "poor.py").write_text(
        "from erasekit.errors import MissingExtraError\nraise MissingExtraError('It', 'english')",
        encoding="utf-8",
    )
    with pytest.raises(MissingExtraError, match=r"erasekit\[english\]"):
        MethodDescriptor("m", "", "poor:Name").load()


def test_every_built_in_target_is_there() -> None:
    registry = Registry()
    found = [d for p in registry.manager.plugins for d in registry.owned(p.name)]
    none = {InferenceDescriptor}  # those of the packages in plugins/ are tested there
    assert {type(descriptor) for descriptor in found} == set(HOOKS) - none
    for descriptor in found:
        assert callable(descriptor.load()), descriptor

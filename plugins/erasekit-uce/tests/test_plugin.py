"""The plugin as erasekit finds it: sound, free of torch, and its method can be loaded."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.training.settings import method_class

ROOT = Path(__file__).parents[1]


def registry() -> Registry:
    """erasekit's own plugins and this one, as its pyproject.toml names it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = project["entry-points"]["erasekit"]
    built_in = [p for p in PluginManager().plugins if p.distribution == "erasekit"]
    points = [EntryPoint(p.name.partition(":")[2], p.module, "erasekit") for p in built_in]
    points += [EntryPoint(name, module, "erasekit") for name, module in own.items()]
    return Registry(PluginManager(points))


def test_it_is_found_without_fault_and_claims_no_taken_name() -> None:
    found = registry()
    assert found.collisions() == []
    assert [plugin.error for plugin in found.manager.plugins if plugin.error] == []
    assert found.owner(found.method("uce")).endswith(":uce")


def test_its_method_and_every_hyperparameter_are_described() -> None:
    method = method_class(registry().method("uce"))
    assert all(field.description for field in method.Config.model_fields.values())


def test_its_hooks_import_no_torch() -> None:
    check = "import sys, erasekit_uce.hooks; sys.exit('torch' in sys.modules)"
    path = [str(ROOT / "src"), *filter(None, sys.path)]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {check}"], check=True
    )

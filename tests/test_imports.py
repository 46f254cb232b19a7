"""The architecture, held by reading every module's imports (those inside functions count too)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import erasekit

PACKAGE = Path(erasekit.__file__).parent
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "template" not in p.parts)
"""All but the template of a plugin, which an installed erasekit carries."""

LEAVES = {"errors", "concepts", "config", "files", "recipes"}
ORDER = (
    *({leaf} for leaf in ("errors",)),
    LEAVES - {"errors"},
    {"plugin"},
    {"models"},
    {"diffusion"},
    {"edits"},
    {"methods", "metrics"},
    {"training"},
    {"attacks"},
    {"bench"},
    {"testing"},
    {"reporting"},
    {"observe", "exports"},
    {"ui", "notebook"},
    {"cli"},
)
"""The floors of the package, the ground first; a part imports from itself and from floors below.

Leaves may import each other where that makes no circle. The commands of `observe` and `exports`
stand on `cli.console` and its like, as a third party's do; `cli` reaches them by hooks alone.
"""
BELOW: dict[str, set[str]] = {
    part: set().union(*ORDER[:floor]) | (LEAVES - {part} if part in LEAVES else set())
    for floor, parts in enumerate(ORDER)
    for part in parts
}
"""What each part of the package may import, beside itself."""

HOOKS = [path for path in PACKAGE.glob("*/__init__.py") if "@hookimpl" in path.read_text("utf-8")]
TORCH_FREE = [
    "erasekit",
    *(f"erasekit.{leaf}" for leaf in sorted(LEAVES) if (PACKAGE / f"{leaf}.py").exists()),
    *(f"erasekit.plugin.{path.stem}" for path in sorted((PACKAGE / "plugin").glob("*.py"))),
    *(f"erasekit.{path.parent.name}" for path in HOOKS),
    "erasekit.models.catalog",
    "erasekit.bench.records",
    "erasekit.bench.store",
    "erasekit.metrics.scores",
    "erasekit.exports.commands",
    "erasekit.observe.commands",
    "erasekit.ui.commands",
    *(f"erasekit.cli.{path.stem}" for path in sorted((PACKAGE / "cli").glob("*.py"))),
]
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "open_clip", "accelerate")

COMMANDS = {
    "plugin/hookspecs.py",
    "observe/commands.py",
    "observe/__init__.py",
    "exports/commands.py",
    "exports/__init__.py",
    "ui/commands.py",
    "ui/__init__.py",
}
"""Who may import typer beside `cli`."""

_TARGET = re.compile(r"erasekit(\.\w+)+(:\w+)?")


def part_of(path: Path) -> str:
    """First step below the package: "errors", "diffusion", ..., or "" for the root modules."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first in ("__init__.py", "__main__.py") else first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that `path` imports, lazy targets ("package.module:Name") included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; write it in full"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and _TARGET.fullmatch(str(node.value)):
            yield str(node.value).replace(":", ".")


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p)], ids=name)
def test_imports_run_downward_only(path: Path) -> None:
    part = part_of(path)
    assert part in BELOW, f"{part} is a new part of the package; say here what it may import"
    allowed = BELOW[part] | {part} | ({"cli"} if name(path) in COMMANDS else set())
    for imported in imports(path):
        package, _, rest = imported.partition(".")
        target = rest.partition(".")[0]
        if package == "erasekit" and target in BELOW:
            assert target in allowed, f"{name(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_who_may_import_which_library(path: Path) -> None:
    part = part_of(path)
    for imported in imports(path):
        top = imported.split(".")[0]
        if top == "rich":
            assert part in ("cli", "reporting", "observe"), f"{name(path)} imports {imported}"
        if top == "typer":
            assert part == "cli" or name(path) in COMMANDS, name(path)
        if part in LEAVES | {"plugin"}:
            assert top not in HEAVY, f"{name(path)} imports {imported}"


def test_erasekit_never_imports_what_stands_beside_it() -> None:
    beside = {"plugins", "benchmarks", "tests", "noxfile"}
    root = PACKAGE.parent
    if (root / "plugins").is_dir():
        beside |= {p.name.replace("-", "_") for p in (root / "plugins").iterdir()}
    for path in MODULES:
        for imported in imports(path):
            assert imported.split(".")[0] not in beside, f"{name(path)} imports {imported}"


def test_the_trainer_knows_no_concrete_method() -> None:
    for path in (PACKAGE / "training").glob("*.py"):
        for imported in imports(path):
            if imported.startswith("erasekit.methods"):
                assert imported.startswith("erasekit.methods.base"), f"{name(path)}: {imported}"


def test_the_shell_and_the_hooks_import_no_torch() -> None:
    assert HOOKS
    statement = "; ".join(f"import {module}" for module in TORCH_FREE)
    check = f"import sys; {statement}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_help_reads_no_model_of_data() -> None:
    """pydantic alone takes as long as the rest of `erasekit --help`."""
    check = (
        "import sys, erasekit.cli.app as app\n"
        "try:\n    app.main(['--help'])\n"
        "finally:\n    print(sorted({'pydantic', 'jinja2', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip().splitlines()[-1] == "[]"


MOST_PARAMETERS = 12


def test_no_function_but_a_command_has_many_parameters() -> None:
    for path in MODULES:
        if part_of(path) == "cli" or name(path) in COMMANDS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([a for a in given if a.arg not in ("self", "cls")])
                assert count <= MOST_PARAMETERS, f"{name(path)}: {node.name} has {count}"


def test_public_names_are_lazy_and_complete() -> None:
    assert set(erasekit.__all__) <= set(dir(erasekit))
    with pytest.raises(AttributeError, match="no attribute 'erase_all'"):
        erasekit.erase_all  # noqa: B018

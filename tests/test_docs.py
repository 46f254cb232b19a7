"""What the documents say is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erasekit.cli.app import build_app
from erasekit.plugin import hookspecs
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from tests.test_imports import ORDER

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_is_documented() -> None:
    page = text("docs/commands.md")
    app = build_app(Registry(PluginManager(points=[])))
    names = {info.name for info in (*app.registered_commands, *app.registered_groups)}
    assert names >= {"erase", "methods"}
    for command in names:
        assert f"\n## {command}\n" in page


def test_the_table_of_layers_is_the_order_of_imports() -> None:
    table = text("docs/architecture.md").partition("| layer |")[2].partition("\n\n")[0]
    layers = [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.splitlines()[2:]]
    assert layers == list(ORDER)


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = set(re.findall(r"[\w/]+\.py\b", text("docs/architecture.md")))
    assert len(named) > 10
    places = [
        ROOT,
        *(p for p in (ROOT / "erasekit", *(ROOT / "erasekit").rglob("*")) if p.is_dir()),
    ]
    for name in named:
        assert any((place / name).is_file() for place in places), name


def test_every_hook_is_documented() -> None:
    page = text("docs/writing-a-plugin.md")
    for name in dir(hookspecs):
        if name.startswith("erasekit_"):
            assert name in page


def test_every_test_that_the_table_of_families_names_is_there() -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)::(\w+)`", text("docs/families.md"))
    assert len(named) > 30
    for path, name in named:
        assert f"def {name}(" in text(f"tests/{path}"), f"{path}::{name}"


def test_every_row_of_the_table_of_families_names_a_test() -> None:
    rows = re.findall(r"^\| (?!-|feature|form|what)(.+) \|$", text("docs/families.md"), re.M)
    assert len(rows) > 30
    for row in rows:
        assert "::test_" in row, row


def test_the_set_up_commands_are_word_for_word() -> None:
    page = text("README.md")
    erase = 'erasekit erase --method gumbel --concept "garbage truck"'
    assert f"python -m pip install . && {erase}" in page
    assert "python -m pip install nox && nox -s tests" in page


def test_the_plugin_walk_quotes_real_code() -> None:
    """Every Python line of the walk (but `...`) stands in the template."""
    package = ROOT / "plugins" / "erasekit-template"
    sources = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    known = {line.strip() for line in sources.splitlines()}
    blocks = re.findall(r"```python\n(.*?)```", text("docs/writing-a-plugin.md"), re.S)
    for line in "".join(blocks).splitlines():
        if line.strip() and "..." not in line:
            assert line.strip() in known, line

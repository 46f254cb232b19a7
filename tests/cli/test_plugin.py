"""`plugin new` and `plugin check`, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erasekit.cli.plugin import Finding, check_apart
from erasekit.errors import PluginError

Run = Callable[..., Any]

BROKEN = """
[project]
name = "erasekit-broken"
[project.entry-points.erasekit]
broken = "broken_hooks_of_a_test"
"""


def test_new_writes_a_package_and_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    written = run("plugin", "new", "My_Method", "--output", str(folder), "--json").json
    assert written["name"] == "erasekit-my-method"
    assert {"pyproject.toml", "src/erasekit_my_method/hooks.py"} <= set(written["files"])
    assert all((folder / name).is_file() for name in written["files"])
    text = run("plugin", "new", "other", "--output", str(tmp_path / "other")).out
    assert f"erasekit plugin check {tmp_path / 'other'}\n" in text


def test_what_new_prints_works_as_typed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = run("plugin", "new", "mine", "--description", "Folds paper.").out
    assert "python -m pip install ./erasekit-mine\n" in out
    assert "erasekit plugin check ./erasekit-mine\n" in out
    assert '"Folds paper."' in (tmp_path / "erasekit-mine/pyproject.toml").read_text("utf-8")
    assert "install './a b'\n" in run("plugin", "new", "mine", "--output", "a b").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "a b"), "'a b' makes no name of a plugin"),
        (("new", "x" * 300), "makes no name of a plugin"),
        (("new", "x", "--output", ""), "it is empty"),
        (("new", "x", "--output", "/proc/x/y"), "can't be written"),
        (("new", "x", "--output", "y" * 5000), "can't be written"),
        (("check", "nowhere"), "No plugin 'nowhere' is installed"),
    ],
)
def test_bad_input_is_one_sentence(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run("plugin", *arguments)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err


def test_check_says_what_fails_and_exits_with_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pyproject.toml").write_text(BROKEN, encoding="utf-8")
    (tmp_path / "broken_hooks_of_a_test.py").write_text("import no_such_module", encoding="utf-8")
    result = run("plugin", "check", str(tmp_path), "--json")
    assert result.code == 1
    (finding,) = result.json["findings"]
    assert finding["subject"] == "plugin 'broken'"
    assert finding["fault"] == "ModuleNotFoundError: No module named 'no_such_module'"


HOOKS = """
from erasekit.plugin.descriptors import MetricDescriptor
from erasekit.plugin.hookspecs import hookimpl

@hookimpl
def erasekit_register_metrics():
    return [MetricDescriptor("{name}", "", "acme.code:Metric")]
"""


def source(folder: Path, name: str = "ours", table: str = "acme.hooks", src: str = "src") -> Path:
    """A folder with a package `acme`, which registers a metric of this name."""
    package = folder / src / "acme"
    package.mkdir(parents=True)
    (package / "hooks.py").write_text(HOOKS.replace("{name}", name), encoding="utf-8")
    (package / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "acme-plugin"\n[project.entry-points.erasekit]\na = "{table}"\n',
        encoding="utf-8",
    )
    return folder


def faults(findings: list[Finding]) -> str:
    return "; ".join(f"{f['subject']}: {f['fault']}" for f in findings if f["fault"])


@pytest.mark.parametrize("src", ["src", "."])
def test_the_folder_is_checked_and_not_the_copy_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, src: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    installed = source(tmp_path / "installed", "sound", src=".")
    (installed / "acme" / "code.py").write_text("class Metric: pass", encoding="utf-8")
    (installed / "acme").rename(site / "acme")
    metadata = site / "acme_plugin-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: acme-plugin\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[erasekit]\na = acme.hooks\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(site))

    findings = list(check_apart(str(source(tmp_path / "other", "ours", src=src))))
    assert "metric 'ours'" in {finding["subject"] for finding in findings}
    assert "metric 'ours': The metric 'ours' points at 'acme.code:Metric'" in faults(findings)
    assert "sound" not in str(findings)
    if src == "src":
        (tmp_path / "other" / src / "acme" / "hooks.py").unlink()
        assert "No module named 'acme.hooks'" in faults(list(check_apart(str(tmp_path / "other"))))
    else:  # no regular package any more, so that the installed one would be found
        (tmp_path / "other" / src / "acme" / "__init__.py").unlink()
        assert "which is not in" in faults(list(check_apart(str(tmp_path / "other"))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "pyproject.toml").unlink(), "has no pyproject.toml"),
        (lambda f: (f / "pyproject.toml").write_text("[project"), "is no TOML"),
        (
            lambda f: (f / "pyproject.toml").write_text("[project]\n"),
            r"has no table \[project.entry-points.erasekit\]; add one",
        ),
        (lambda f: (f / "src").rename(f / "lib"), "names the module 'acme', which is neither in"),
    ],
)
def test_a_folder_that_is_no_plugin(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    change(source(tmp_path))
    with pytest.raises(PluginError, match=words):
        list(check_apart(str(tmp_path)))


def test_an_unknown_name_names_what_there_is() -> None:
    with pytest.raises(PluginError, match=r"No plugin 'nowhere' is installed.*erasekit"):
        list(check_apart("nowhere"))


def test_a_plugin_that_ends_the_process_is_a_finding(tmp_path: Path) -> None:
    folder = source(tmp_path)
    hooks = folder / "src" / "acme" / "hooks.py"
    hooks.write_text("import os; print('noise'); os._exit(0)", encoding="utf-8")
    assert "the checks come to their end" in str(list(check_apart(str(folder))))

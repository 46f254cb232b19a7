"""A plugin written from the template: its names, and that its own tests pass as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from erasekit.errors import ConfigError, OutputError
from erasekit.plugin.package import plugin_name, template_folder, write_plugin


@pytest.mark.parametrize(
    ("text", "name"), [("uce", "uce"), ("erasekit-UCE", "uce"), (" My_Method ", "my-method")]
)
def test_names(text: str, name: str) -> None:
    assert plugin_name(text) == name


@pytest.mark.parametrize(
    "text", ["", "9lives", "a b", "a--b", "../up", "template", "-a", "é", "x" * 300]
)
def test_what_makes_no_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"makes no name of a plugin; use another"):
        plugin_name(text)


@pytest.mark.parametrize("description", ["", 'Folds "paper" \\ {name} [red] template'])
def test_nothing_of_the_template_is_left(tmp_path: Path, description: str) -> None:
    folder = write_plugin("my-method", tmp_path / "deep" / "erasekit-my-method", description)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "LICENSE"]
    assert len(files) > 10
    wanted = description or "A plugin for erasekit: my-method."
    for path in files:
        assert "template" not in path.relative_to(folder).as_posix()
        text = path.read_text(encoding="utf-8")
        if path.name == "pyproject.toml":
            assert tomllib.loads(text)["project"]["description"] == wanted
        elif path.name == "README.md":
            assert wanted in text
            assert re.findall(r"\]\((?!http)", text) == [], "a link into another tree"
        else:
            assert "template" not in text
            assert not re.search(r"et al|docs/|plugins/", text), path
    assert (folder / "LICENSE").read_bytes() == (template_folder() / "LICENSE").read_bytes()
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError, match="mine exists already; name another with --output"):
        write_plugin("mine", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_its_own_tests_pass_as_written(tmp_path: Path) -> None:
    """As after `pip install`: its module and its metadata are on the path."""
    folder = write_plugin("my-method", tmp_path / "erasekit-my-method")
    metadata = folder / "src" / "erasekit_my_method-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: erasekit-my-method\nVersion: 0.1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(
        "[erasekit]\nmy-method = erasekit_my_method.hooks\n", encoding="utf-8"
    )
    path = os.pathsep.join(filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert " passed" in done.stdout

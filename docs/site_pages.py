"""Pages of the site that are made from the code, and links out of docs/ that lead somewhere.

A hook of mkdocs (see mkdocs.yml). The options of every command come from the Typer application, a
page a method from its descriptor, docstring and settings, the Python reference from docstrings. A
link to a file of the repository outside docs/ leads to a copy of that file in `project/`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import erasekit
from erasekit.cli.app import build_app
from erasekit.plugin.registry import Registry

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)\s]*)?\)")
SETTINGS = "<!-- settings -->"
PYTHON = """# Python

```python
import erasekit

model = erasekit.load_model("icons")
edit = erasekit.erase(model, "garbage truck")
print(erasekit.measure(model, edit).delta)
```

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and every file of the repository that a page links to."""
    pages = {"reference/cli.md": _commands(), "reference/python.md": _python()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    waiting = [page.src_uri for page in files.documentation_pages()]
    while waiting:
        source = waiting.pop()
        found = files.get_file_from_path(source)
        if found is None or source in pages:
            continue
        for target in _linked(source, found.content_string):
            path = f"project/{target}"
            if not target.startswith("docs/") and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / target)))
                waiting += [path] if path.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links between repository files to their pages of the site."""
    source = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        start, link, anchor = match[1], match[2], match[3] or ""
        target = _target(source, link)
        if target is None:
            return match[0]
        own = target.removeprefix("docs/") if target.startswith("docs/") else f"project/{target}"
        return f"{start}{relpath(own, str(PurePosixPath(source).parent))}{anchor})"

    text = LINK.sub(led, markdown)
    return text.replace(SETTINGS, _settings(Path(source).stem)) if SETTINGS in text else text


def _linked(source: str, text: str) -> Iterator[str]:
    for match in LINK.finditer(text):
        if (target := _target(source, match[2])) is not None:
            yield target


def _target(source: str, link: str) -> str | None:
    """The repository's file that a link of a page leads to; a folder stands for its README."""
    if "://" in link or link.startswith("/"):
        return None
    generated = not source.startswith("project/") and not (ROOT / "docs" / source).exists()
    if generated:
        return None
    own = source.removeprefix("project/") if source.startswith("project/") else f"docs/{source}"
    target = normpath((PurePosixPath(own).parent / link).as_posix())
    if (ROOT / target).is_dir():
        target = f"{target}/README.md"
    return target if (ROOT / target).is_file() else None


def _python() -> str:
    names = "\n".join(f"::: erasekit.{name}\n" for name in erasekit.__all__)
    return PYTHON + names


def _commands() -> str:
    """Every option of every command, as `--help` has them."""
    command = typer.main.get_command(build_app(Registry()))
    text = [
        "# Options",
        "",
        "As `--help` says them; what commands do together is in [Commands](../commands.md).",
        "",
    ]
    return "\n".join([*text, *_command(command, "erasekit", 2)])


def _command(command: Any, name: str, level: int) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    if level > 2:
        yield f"{'#' * (level - 1)} {name}"
        yield ""
        yield _prose(command.help or "")
        yield ""
        yield f"    {command.get_usage(context).removeprefix('Usage: ').strip()}"
        yield ""
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    if options and level > 2:
        yield "| option | meaning | default |"
        yield "|---|---|---|"
        for option in options:
            record = option.get_help_record(context)
            if record is None or "--help" in option.opts:
                continue
            names = ", ".join(f"`{n}`" for n in (*option.opts, *option.secondary_opts))
            default = (
                ""
                if option.default in (None, False, ()) or callable(option.default)
                else f"`{option.default}`"
            )
            yield f"| {names} | {_cell(option.help or '')} | {default} |"
        yield ""
    for sub in command.list_commands(context) if hasattr(command, "list_commands") else ():
        found = command.get_command(context, sub)
        if found is not None and not found.hidden:
            yield from _command(found, f"{name} {sub}", level + 1)


def _settings(name: str) -> str:
    """Every setting of a method, as `erasekit methods show NAME --json` gives them."""
    command = [sys.executable, "-m", "erasekit", "methods", "show", name, "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = ["| setting | default | on `icons` | meaning |", "|---|---|---|---|"]
    for setting in json.loads(shown)["settings"]:
        default, own = setting["default"], setting["model_default"]
        there = f"`{own}`" if own != default else ""
        text.append(f"| `{setting['name']}` | `{default}` | {there} | {_cell(setting['help'])} |")
    return "\n".join(text)


def _prose(text: str) -> str:
    """A help text without rich's markup."""
    return re.sub(r"\[/?[a-z ]+\]", "", text).strip()


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|").replace("\n", " ")

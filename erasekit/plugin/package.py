"""Writes the package of a new plugin from the template. No torch here."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

import erasekit
from erasekit.errors import ConfigError, OutputError, PluginError

PREFIX = "erasekit-"
LONGEST_NAME = 60
DESCRIPTION = "A plugin for erasekit: template."
"""What the template says of itself."""
_PACKAGE = Path(erasekit.__file__).parent
_PLACES = (_PACKAGE / "embedded" / "template", _PACKAGE.parent / "plugins" / "erasekit-template")
"""In an installed erasekit, and in its source tree."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[co]", ".*_cache", "*.dist-info")


def plugin_name(text: str) -> str:
    """The short name of a plugin: "uce" of "uce" or "erasekit-uce".

    Raises:
        ConfigError: it does not make a package's name.
    """
    name = text.strip().lower().replace("_", "-").removeprefix(PREFIX)
    if not _NAME.fullmatch(name) or name == "template" or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{text!r} makes no name of a plugin; use another, of at most {LONGEST_NAME} letters, "
            "digits and single hyphens, that begins with a letter, such as my-method."
        )
    return name


def write_plugin(name: str, folder: Path, description: str = "") -> Path:
    """Write a package named erasekit-`name` that passes its tests as written.

    Args:
        name: as `plugin_name` gives it.
        folder: where the package goes; it is made, and must not exist.
        description: one line for the package index and the README.

    Returns:
        `folder`.

    Raises:
        OutputError: `folder` exists, or can't be written.
        PluginError: this installation of erasekit has no template.
    """
    template = template_folder()
    description = " ".join(description.split()) or DESCRIPTION.replace("template", name)
    try:
        if folder.exists():
            raise OutputError(f"{folder} exists already; name another with --output.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-plugin-") as place:
            copy = Path(place) / "package"
            shutil.copytree(template, copy, ignore=_LEFT_OUT)
            for path in sorted(copy.rglob("*"), key=lambda p: -len(p.parts)):
                if path.is_file() and path.name != "LICENSE":
                    text = made_own(path.name, path.read_text("utf-8"), name, description)
                    path.write_text(text, encoding="utf-8")
                path.rename(path.with_name(made_own("", path.name, name, description)))
            copy.rename(folder)
    except OSError as error:
        raise OutputError(
            f"{folder} can't be written ({error.strerror or error}); name another with --output."
        ) from error
    return folder


def made_own(file: str, text: str, name: str, description: str) -> str:
    """`text` of a file of the template, as a plugin of another name and description has it.

    >>> made_own("", "erasekit-template has erasekit_template and template-hardest", "mine", "")
    'erasekit-mine has erasekit_mine and mine-hardest'
    """
    if file == "pyproject.toml":
        description = json.dumps(description, ensure_ascii=False)[1:-1]
    module = f"erasekit_{name.replace('-', '_')}"
    text = text.replace(DESCRIPTION, "\0").replace("erasekit_template", module)
    return re.sub(r"\btemplate\b", name, text).replace("\0", description)


def template_folder() -> Path:
    """Where the template is.

    Raises:
        PluginError: this installation has none.
    """
    for place in _PLACES:
        if (place / "pyproject.toml").is_file():
            return place
    raise PluginError(
        "This installation of erasekit has no template of a plugin; install erasekit again."
    )

"""A new plugin package, written from the template. No torch here."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import erasekit
from erasekit.errors import ConfigError, OutputError, PluginError

PREFIX = "erasekit-"
TEMPLATE = "erasekit-template"
_PACKAGE = Path(erasekit.__file__).parent
_PLACES = (_PACKAGE / "embedded" / "template", _PACKAGE.parent / "plugins" / TEMPLATE)
"""In an installed erasekit, and in its source tree."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[co]", ".*_cache")


def plugin_name(text: str) -> str:
    """The short name of a plugin: "uce" of "uce" or "erasekit-uce".

    Raises:
        ConfigError: it does not make a package's name.
    """
    name = text.strip().lower().replace("_", "-").removeprefix(PREFIX)
    if not _NAME.fullmatch(name) or name == "template":
        raise ConfigError(
            f"{text!r} makes no name of a plugin; use another, of letters, digits and single "
            "hyphens, that begins with a letter, such as my-method."
        )
    return name


def write_plugin(name: str, folder: Path) -> Path:
    """Write a package named erasekit-`name` that passes its tests as written.

    Args:
        name: as `plugin_name` gives it.
        folder: where the package goes; it is made, and must not exist.

    Returns:
        `folder`.

    Raises:
        OutputError: `folder` exists, or can't be written.
        PluginError: this installation of erasekit has no template.
    """
    template = template_folder()
    if folder.exists():
        raise OutputError(f"{folder} exists already; name another with --output.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-plugin-") as place:
            copy = Path(place) / "package"
            shutil.copytree(template, copy, ignore=_LEFT_OUT)
            for path in sorted(copy.rglob("*"), key=lambda p: -len(p.parts)):
                if path.is_file() and path.name != "LICENSE":
                    path.write_text(renamed(path.read_text("utf-8"), name), encoding="utf-8")
                path.rename(path.with_name(renamed(path.name, name)))
            copy.rename(folder)
    except OSError as error:
        raise OutputError(
            f"{folder} can't be written ({error.strerror or error}); name another with --output."
        ) from error
    return folder


def renamed(text: str, name: str) -> str:
    """`text` of the template with the plugin's name in it: erasekit_my_method, my-method-....

    >>> renamed("erasekit-template has erasekit_template and template-hardest", "my-method")
    'erasekit-my-method has erasekit_my_method and my-method-hardest'
    """
    text = text.replace("erasekit_template", f"erasekit_{name.replace('-', '_')}")
    text = text.replace("./plugins/erasekit-template", f"./erasekit-{name}")
    text = text.replace("plugins/erasekit-template", f"erasekit-{name}")
    return re.sub(r"\btemplate\b", name, text)


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

"""Loading models and edits for commands: which model, quietly, with a word on what is happening."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from erasekit.cli.context import DEFAULT_MODEL, MODEL_VARIABLE
from erasekit.cli.output import stderr
from erasekit.cli.quiet import quiet_libraries
from erasekit.plugin.registry import Registry

if TYPE_CHECKING:
    from erasekit.diffusion.loading import LoadedModel
    from erasekit.edits import Edit


def chosen_model(named: str | None, edit: Edit | None = None) -> str:
    """The model a command works on.

    The one the user named; else the one the edit was made from; else `ERASEKIT_MODEL`; else
    the model in the wheel.
    """
    if named:
        return named
    if edit is not None:
        return str(edit.info["base_model"]["id"])
    return os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL


@contextmanager
def opened(name: str, registry: Registry, *, truncate: bool = False) -> Iterator[LoadedModel]:
    """The loaded model; within the block the libraries below keep quiet.

    Args:
        truncate: cut prompts that are too long, in place of refusing them.

    Raises:
        ModelError: it can't be loaded.
        UnknownNameError: no such model.
    """
    from erasekit.diffusion.loading import load_model

    with quiet_libraries():
        with stderr().status(f"Loading {name}"):
            model = load_model(name, registry, truncate=truncate)
        yield model


def read_edit(folder: Path | None) -> Edit | None:
    """The edit in a run folder, or None for no folder.

    Raises:
        EditError: it can't be read.
    """
    if folder is None:
        return None
    from erasekit.edits import load_edit

    return load_edit(folder)

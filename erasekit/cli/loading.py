"""Loading models and edits for commands: which model, quietly, with a word on what is happening."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from erasekit.cli.context import DEFAULT_MODEL, MODEL_VARIABLE, LoadedAs
from erasekit.cli.output import stderr
from erasekit.cli.quiet import quiet_libraries
from erasekit.errors import ModelError
from erasekit.plugin.registry import Registry

if TYPE_CHECKING:
    import torch

    from erasekit.edits import Edit
    from erasekit.models.loading import LoadedModel


def chosen_model(named: str | None, edit: Edit | None = None, revision: str | None = None) -> str:
    """The model a command works on.

    The one the user named; else the one the edit was made from; else `ERASEKIT_MODEL`; else
    the model in the wheel.

    Args:
        revision: becomes part of the name, so that an edit's base model is named in full.

    Raises:
        ModelError: the name has a revision of its own.
    """
    if named:
        name = named
    elif edit is not None:
        name = str(edit.info["base_model"]["id"])
    else:
        name = os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
    if revision is None:
        return name
    if "@" in name:
        raise ModelError(f"The model {name!r} names a revision already; drop --revision.")
    return f"{name}@{revision}"


@contextmanager
def opened(
    name: str,
    registry: Registry,
    *,
    device: str = "cpu",
    dtype: LoadedAs = LoadedAs.FP32,
    truncate: bool = False,
) -> Iterator[LoadedModel]:
    """The loaded model; within the block the libraries below keep quiet.

    Args:
        device: a name that `choose_device` takes.
        dtype: precision of its weights.
        truncate: cut prompts that are too long, in place of refusing them.

    Raises:
        ConfigError: no such device here.
        ModelError: it can't be loaded.
        UnknownNameError: no such model.
    """
    from erasekit.models.devices import choose_device
    from erasekit.models.loading import load_model

    place = choose_device(device)
    with quiet_libraries():
        with stderr().status(f"Loading {name}"):
            model = load_model(
                name, registry, device=place, dtype=torch_dtype(dtype), truncate=truncate
            )
        yield model


def torch_dtype(dtype: str) -> torch.dtype:
    """What torch calls a precision that `--dtype` takes."""
    import torch

    return torch.float16 if dtype == LoadedAs.FP16 else torch.float32


def read_edit(folder: Path | None, registry: Registry) -> Edit | None:
    """The edit in a run folder, or None for no folder.

    Raises:
        EditError: it can't be read.
    """
    if folder is None:
        return None
    from erasekit.edits import load_edit

    return load_edit(folder, registry)

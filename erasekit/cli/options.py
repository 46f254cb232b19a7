"""Options that commands share, as types of their parameters; which model they name, and loading it.

def erase(context: typer.Context, model: ModelOption = None, as_json: JsonOption = False)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from erasekit.cli.console import quiet_libraries, working
from erasekit.concepts import KINDS
from erasekit.errors import ModelError
from erasekit.plugin.registry import Registry

if TYPE_CHECKING:
    import torch

    from erasekit.edits import Edit
    from erasekit.models.loading import LoadedModel

MODEL_VARIABLE = "ERASEKIT_MODEL"
DEFAULT_MODEL = "icons"

METHOD_PANEL, MODEL_PANEL, OUTPUT_PANEL = "How it is erased", "Model and machine", "Output"
"""Panels of a command's help."""

Kind = StrEnum("Kind", {kind.upper(): kind for kind in KINDS})  # type: ignore[misc]
"""What `--kind` takes."""


class LoadedAs(StrEnum):
    """Precision of a model in memory.

    bf16 is not among them: it would round the weights to other values than those that a model's
    hash is of.
    """

    FP32 = "fp32"
    FP16 = "fp16"


class Device(StrEnum):
    """Where a model is worked on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Computed(StrEnum):
    """What a run computes in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def not_empty(value: str | None) -> str | None:
    """A callback for options whose empty value would stand for something else.

    Raises:
        typer.BadParameter: `value` is empty.
    """
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty; give a name, or leave the option out.")
    return value


def output_path(value: str) -> Path:
    """A parser of paths to write to: an unset variable of a shell names no folder.

    Raises:
        typer.BadParameter: `value` is empty.
    """
    return Path(str(not_empty(value)))


def registered(kind: str) -> Callable[[str], list[tuple[str, str]]]:
    """A completion of the names of "methods", "suites", ... in the registry; imports no torch."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        found = getattr(Registry(), kind)().values()
        return [(one.name, one.summary) for one in found if one.name.startswith(incomplete)]

    return complete


MODEL_HELP = (
    "Registered name, hub id such as CompVis/stable-diffusion-v1-4, diffusers folder, or "
    ".safetensors file; ID@REVISION for a branch, tag or commit."
)
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"{MODEL_HELP} [default: the edit's, {MODEL_VARIABLE}, or {DEFAULT_MODEL}]",
        show_default=False,
        callback=not_empty,
        autocompletion=registered("models"),
        rich_help_panel=MODEL_PANEL,
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Branch, tag or commit of a model on the hub; as in ID@REVISION.",
        callback=not_empty,
        rich_help_panel=MODEL_PANEL,
    ),
]
DeviceOption = Annotated[
    Device,
    typer.Option(
        "--device",
        help="auto is a CUDA GPU where there is one.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DtypeOption = Annotated[
    LoadedAs,
    typer.Option(
        "--dtype",
        help="What the weights are loaded in; fp16 takes half the memory, and reads the fp16 files "
        "of a model that has some.",
        rich_help_panel=MODEL_PANEL,
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        help="See `erasekit methods`.",
        autocompletion=registered("methods"),
        rich_help_panel=METHOD_PANEL,
    ),
]
KindOption = Annotated[
    Kind | None,
    typer.Option("--kind", help="By default what the model knows of the concept, else object."),
]
SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        "-s",
        help="A name of `erasekit suites`, or a TOML file.",
        autocompletion=registered("suites"),
    ),
]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        help="A registered scorer, MODEL/TAG or MODEL/FILE of open_clip, or local-dir:FOLDER "
        "[default: the suite's or the model's].",
        show_default=False,
        callback=not_empty,
        autocompletion=registered("scorers"),
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A hyperparameter, KEY=VALUE; see `erasekit methods show`.",
        rich_help_panel=METHOD_PANEL,
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        help="A TOML recipe of hyperparameters: a path, or a shipped one, published or fast.",
        rich_help_panel=METHOD_PANEL,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=output_path,
        metavar="PATH",
        help="Where to write [default: a new folder in runs/].",
        show_default=False,
        rich_help_panel=OUTPUT_PANEL,
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what erasekit wrote there before, once the new is whole.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel=OUTPUT_PANEL),
]


def registry_of(context: typer.Context) -> Registry:
    """The registry that `main` built for this invocation."""
    registry = context.find_object(Registry)
    if registry is None:
        raise RuntimeError("the application was not given a registry; see erasekit.cli.app.main")
    return registry


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
    dtype: str = LoadedAs.FP32,
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
    from erasekit.models.loading import choose_device, load_model

    place = choose_device(device)
    with quiet_libraries():
        with working(f"Loading {name}"):
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

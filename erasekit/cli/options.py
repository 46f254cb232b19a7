"""Options that commands share, as types of their parameters; which model they name, and loading it.

def erase(context: typer.Context, model: ModelOption = None, as_json: JsonOption = False)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
LoadedAs = StrEnum("LoadedAs", {"FP32": "fp32", "FP16": "fp16"})
"""Precision of a model in memory. bf16 would round weights to others than a model's hash is of."""
Device = StrEnum("Device", {"AUTO": "auto", "CPU": "cpu", "CUDA": "cuda", "MPS": "mps"})
"""Where a model is worked on."""
Computed = StrEnum("Computed", {"FP32": "fp32", "BF16": "bf16", "FP16": "fp16"})
"""What a run computes in."""


def not_empty(value: str | None) -> str | None:
    """Refuse an empty value: an unset variable of a shell names nothing.

    Raises:
        typer.BadParameter: `value` is empty.
    """
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty; give a name, or leave the option out.")
    return value


def output_path(value: str) -> Path:
    """Parse a path to write to, as `not_empty` allows it."""
    return Path(str(not_empty(value)))


def registered(kind: str) -> Callable[[str], list[tuple[str, str]]]:
    """A completion of the names of "methods", "suites", ... in the registry; imports no torch."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        found = getattr(Registry(), kind)().values()
        return [(one.name, one.summary) for one in found if one.name.startswith(incomplete)]

    return complete


_of_model = partial(typer.Option, rich_help_panel=MODEL_PANEL)
_of_method = partial(typer.Option, rich_help_panel=METHOD_PANEL)
_of_output = partial(typer.Option, rich_help_panel=OUTPUT_PANEL)


def path_option(metavar: str, text: str) -> Any:
    """The option `--output` of a command, with `text` as its help."""
    names = ("--output", "-o")
    return _of_output(*names, parser=output_path, metavar=metavar, help=text, show_default=False)


MODEL_HELP = (
    "Registered name, hub id such as CompVis/stable-diffusion-v1-4, diffusers folder, or "
    ".safetensors file; ID@REVISION for a branch, tag or commit."
)
ModelOption = Annotated[
    str | None,
    _of_model(
        "--model",
        "-m",
        help=f"{MODEL_HELP} [default: the edit's, {MODEL_VARIABLE}, or {DEFAULT_MODEL}]",
        show_default=False,
        callback=not_empty,
        autocompletion=registered("models"),
    ),
]
RevisionOption = Annotated[
    str | None,
    _of_model(
        "--revision",
        help="Branch, tag or commit of a model on the hub; as in ID@REVISION.",
        callback=not_empty,
    ),
]
DeviceOption = Annotated[
    Device, _of_model("--device", help="auto is a CUDA GPU where there is one.")
]
DtypeOption = Annotated[
    LoadedAs,
    _of_model(
        "--dtype",
        help="What the weights are loaded in; fp16 takes half the memory, and reads the fp16 files "
        "of a model that has some.",
    ),
]
MethodOption = Annotated[
    str,
    _of_method("--method", help="See `erasekit methods`.", autocompletion=registered("methods")),
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
    _of_method("--set", help="A hyperparameter, KEY=VALUE; see `erasekit methods show`."),
]
ConfigOption = Annotated[
    str | None,
    _of_method(
        "--config",
        help="A TOML recipe of hyperparameters: a path, or a shipped one, published or fast.",
    ),
]
OutputOption = Annotated[
    Path | None,
    path_option("PATH", "Where to write [default: a new folder in runs/]."),
]
OverwriteOption = Annotated[
    bool,
    _of_output(
        "--overwrite", help="Replace what erasekit wrote there before, once the new is whole."
    ),
]
JsonOption = Annotated[bool, _of_output("--json", help="Print JSON instead of a table.")]


def registry_of(context: typer.Context) -> Registry:
    """The registry that `main` built for this invocation."""
    registry = context.find_object(Registry)
    if registry is None:
        raise RuntimeError("the application was not given a registry; see erasekit.cli.app.main")
    return registry


def chosen_model(named: str | None, edit: Edit | None = None, revision: str | None = None) -> str:
    """The model that was named, else that of the edit, of `ERASEKIT_MODEL`, or the shipped one.

    Args:
        named: what `--model` was given.
        edit: the edit to be applied.
        revision: becomes part of the name, so that an edit's base model is named in full.

    Raises:
        ModelError: the name has a revision of its own.
    """
    of_edit = str(edit.info["base_model"]["id"]) if edit is not None else ""
    name = named or of_edit or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
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

    Raises: as `load_model`, whose arguments these are.
    """
    from erasekit.models.loading import choose_device, load_model

    place, stored = choose_device(device), torch_dtype(dtype)
    with quiet_libraries():
        with working(f"Loading {name}"):
            model = load_model(name, registry, device=place, dtype=stored, truncate=truncate)
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
    from erasekit.edits import load_edit

    return load_edit(folder, registry) if folder else None

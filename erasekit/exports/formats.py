"""The table of export forms, and what all of them take and give. Needs no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasekit.errors import ConfigError, OutputError, UnknownNameError
from erasekit.files import check_output_folder

if TYPE_CHECKING:
    from erasekit.edits import Edit
    from erasekit.models.loading import LoadedModel

PROVENANCE = "erasekit.json"
"""Says how a model was made, in a diffusers folder that erasekit wrote."""


class Precision(StrEnum):
    """How weights are written."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Layout(StrEnum):
    """How a LoRA names its tensors."""

    DIFFUSERS = "diffusers"
    KOHYA = "kohya"


@dataclass(frozen=True)
class ExportOptions:
    """What may be asked of an export; each form takes some of these (see `Format.options`).

    Attributes:
        dtype: precision of the written weights; None keeps the model's.
        max_shard_size: largest weights file, such as "2GB"; None leaves it to diffusers.
        layout: tensor names of a LoRA.
        energy: share of the squared change that each factored weight keeps, in (0, 1].
        rank: one rank for all factors, in place of `energy`.
        allow_loss: write a form though what it can't carry of the edit matters.
        images: images drawn to state a LoRA's error in pixels; 0 draws none.
        force: use a model that the edit was not made from.
    """

    dtype: Precision | None = None
    max_shard_size: str | None = None
    layout: Layout = Layout.DIFFUSERS
    energy: float = 0.99
    rank: int | None = None
    allow_loss: bool = False
    images: int = 2
    force: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise ConfigError(
                f"The energy {self.energy} is not a share; give a number above 0 and up to 1."
            )
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"The rank {self.rank} is too small; give 1 or more.")

    def given(self) -> set[str]:
        """Names of the options that differ from their defaults."""
        return {f.name for f in fields(self) if getattr(self, f.name) != f.default}


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        path: the folder or file to name to the reader.
        files: all weights files written.
        load_with: a line of Python, or a place to put the file, that loads it.
        report: what is worth stating as data; for a LoRA its rank and errors.
        notes: sentences for the user.
    """

    path: Path
    files: list[Path]
    load_with: str
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """A form an edit can be written in.

    Attributes:
        name: as `--to` takes it.
        help: one line.
        target: "module:function" of `(edit, model, path, options) -> ExportResult`.
        options: names of the `ExportOptions` it takes, beside `force`.
        file_stem: stem of the one file it writes; "" for a form that fills a folder.
        needs_model: whether the base model must be loaded.
    """

    name: str
    help: str
    target: str
    options: frozenset[str] = frozenset()
    file_stem: str = ""
    needs_model: bool = True

    def load(self) -> Callable[..., ExportResult]:
        """The function that writes it."""
        module, _, function = self.target.partition(":")
        loaded: Callable[..., ExportResult] = getattr(importlib.import_module(module), function)
        return loaded

    def check(self, options: ExportOptions) -> None:
        """Refuse options that this form would ignore, by `ConfigError`."""
        for name in sorted(options.given() - self.options - {"force"}):
            takers = ", ".join(f.name for f in FORMATS.values() if name in f.options)
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} has no meaning for --to {self.name}; it is for {takers}.")

    def destination(self, output: Path, options: ExportOptions, *, overwrite: bool) -> Path:
        """The folder or file to write for `output`; touches nothing.

        A form that writes one file puts it under its usual name into `output`, unless `output`
        ends in ".safetensors". Raises `OutputError` as `check_output_folder`, also for a file.
        """
        if not self.file_stem:
            check_output_folder(output, overwrite=overwrite, marks=[PROVENANCE])
            return output
        path, stem = output, self.file_stem
        if "layout" in self.options and options.layout is Layout.DIFFUSERS:
            stem = "pytorch_lora_weights"  # which diffusers looks for
        if output.suffix != ".safetensors":
            path = output / f"{stem}.safetensors"
        check_output_folder(path.parent, overwrite=True)
        if path.is_dir():
            raise OutputError(f"{str(path)!r} is a folder; name a file.")
        if path.exists() and not overwrite:
            raise OutputError(f"{str(path)!r} exists; name another file or add --overwrite.")
        if path.exists() and not _is_ours(path):
            raise OutputError(f"erasekit did not make the file {str(path)!r}; name another.")
        return path


def _is_ours(path: Path) -> bool:
    """Whether the metadata of a safetensors file say that erasekit wrote it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return False
    return metadata.get("format") == "erasekit" or "erasekit.edit" in metadata


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format(
            "diffusers",
            "a folder that from_pretrained loads",
            "erasekit.exports.whole_model:export_diffusers",
            frozenset({"dtype", "max_shard_size", "allow_loss"}),
        ),
        Format(
            "lora",
            "low-rank factors of the change, for diffusers or (--layout kohya) ComfyUI and A1111",
            "erasekit.exports.lora:export_lora",
            frozenset({"dtype", "layout", "energy", "rank", "allow_loss", "images"}),
            file_stem="lora",
        ),
        Format(
            "single-file",
            "one file in the original layout, for from_single_file, ComfyUI and A1111",
            "erasekit.exports.whole_model:export_single_file",
            frozenset({"dtype", "allow_loss"}),
            file_stem="model",
        ),
        Format(
            "weights",
            "one file with the changed tensors and how they were made; load_edit reads it",
            "erasekit.exports.weights:export_weights",
            file_stem="edit",
            needs_model=False,
        ),
    )
}
ALIASES = {"delta": "weights"}
"""Former names of forms."""


def format_named(name: str) -> Format:
    """The form of this name, or of this former name; `UnknownNameError` where there is none."""
    name = ALIASES.get(name, name)
    if name not in FORMATS:
        raise UnknownNameError("export form", name, FORMATS)
    return FORMATS[name]


def export(
    edit: Edit, model: LoadedModel | None, to: str, path: Path | str, options: ExportOptions
) -> ExportResult:
    """Write an edit in the form `to`.

    Args:
        model: the model it was made from; may be None where the form needs none.
        path: folder or file to write; replaced where it exists.

    Raises:
        UnknownNameError: no such form.
        ConfigError: no model, or an option that the form does not take.
        EditError: the edit does not fit the model, or the form can't carry it.
        OutputError: it can't be written.
    """
    form = format_named(to)
    form.check(options)
    if form.needs_model and model is None:
        raise ConfigError(f"An export --to {form.name} is made of the base model; give it.")
    destination = form.destination(Path(path), options, overwrite=True)
    return form.load()(edit, model, destination, options)

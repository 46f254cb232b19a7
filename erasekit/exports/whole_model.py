"""`--to diffusers` and `--to single-file`: the whole edited model, for programs without erasekit.

The one is a folder that `from_pretrained` reads; the other one file in the original layout, which
ComfyUI and A1111 load as any checkpoint and diffusers with `from_single_file`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasekit.edits import Edit
from erasekit.errors import ConfigError
from erasekit.exports.formats import ExportOptions, ExportResult
from erasekit.exports.weights import as_weights, dtype_of, file_metadata
from erasekit.models.loading import LoadedModel
from erasekit.models.original_keys import original_state
from erasekit.models.pipeline_state import components
from erasekit.models.tensor_files import save_tensors


def export_diffusers(
    edit: Edit,
    model: LoadedModel,
    path: Path,
    options: ExportOptions,
    about: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write the folder; takes `dtype`, `max_shard_size` and `allow_loss`.

    The images it draws equal those of the edit in the same precision. `about` is what its
    `erasekit.json` says in place of the edit's `info`.

    Raises:
        EditError: the model is another one, or weights can't carry the edit.
        ConfigError: a shard size that is none.
        OutputError: the folder can't be written, or the disk is full.
    """
    size, dtype = options.max_shard_size, dtype_of(options.dtype, model.family.dtype)
    if size is not None and not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]B", size, flags=re.IGNORECASE):
        raise ConfigError(f"The shard size {size!r} is no size; write it like 500MB or 2GB.")
    weights, notes = as_weights(edit, model, options)
    with _casted(model.pipeline, dtype):
        weights.export_diffusers(model, path, force=options.force, max_shard_size=size, about=about)
    load_with = f'{type(model.pipeline).__name__}.from_pretrained("{path}")'
    report = {"dtype": str(dtype).removeprefix("torch.")}
    return ExportResult(path, sorted(path.glob("*/*.safetensors")), load_with, report, notes)


@contextmanager
def _casted(pipeline: Any, dtype: torch.dtype) -> Iterator[None]:
    """The pipeline's weights in `dtype` for the block; afterwards its own, bit for bit."""
    originals: list[tuple[Tensor, Tensor]] = []
    try:
        for component in components(pipeline):
            for tensor in (*component.parameters(), *component.buffers()):
                if tensor.is_floating_point() and tensor.dtype != dtype:
                    originals.append((tensor, tensor.data))
                    tensor.data = tensor.data.to(dtype)
        yield
    finally:
        for tensor, value in originals:
            tensor.data = value


def export_single_file(
    edit: Edit, model: LoadedModel, path: Path, options: ExportOptions
) -> ExportResult:
    """Write the file; takes `dtype` and `allow_loss`.

    Raises:
        EditError: the model is another one, or of a family without an original layout, or weights
            can't carry the edit.
        OutputError: the file can't be written, or the disk is full.
    """
    dtype, prediction = dtype_of(options.dtype, model.family.dtype), model.family.prediction_type
    edit, notes = as_weights(edit, model, options)
    said = {"modelspec.prediction_type": "v" if prediction == "v_prediction" else "epsilon"}
    with edit.applied(model, force=options.force):
        tensors = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in original_state(model.pipeline, model.family.name).items()
        }
        save_tensors(path, tensors, file_metadata(edit, **said))
    source = getattr(model.pipeline, "name_or_path", None)
    local = source is not None and (Path(source) / "model_index.json").is_file()
    config = f', config="{source}"' if local else ""
    load_with = f'{type(model.pipeline).__name__}.from_single_file("{path}"{config})'
    report = {"dtype": str(dtype).removeprefix("torch."), "tensors": len(tensors)}
    if prediction != "epsilon":
        notes.append(
            f"The model predicts {prediction!r}, which no tensor of a single file says; tell the "
            "program that reads it."
        )
    return ExportResult(path, [path], load_with, report, notes)

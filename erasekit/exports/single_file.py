"""`--to single-file`: the whole edited model in one file, in the original layout.

ComfyUI and A1111 load it as any checkpoint; diffusers with `from_single_file`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from erasekit.edits import Edit, save_tensors
from erasekit.errors import ConfigError
from erasekit.exports.formats import ExportOptions, ExportResult
from erasekit.exports.weights import as_weights, dtype_of, file_metadata
from erasekit.models.loading import LoadedModel
from erasekit.models.original_keys import original_state


def export_single_file(
    edit: Edit, model: LoadedModel | None, path: Path, options: ExportOptions
) -> ExportResult:
    """Write the file; takes `dtype` and `allow_loss`.

    Raises:
        EditError: the model is another one, or of a family without an original layout, or weights
            can't carry the edit.
        ConfigError: no model.
        OutputError: the file can't be written, or the disk is full.
    """
    if model is None:
        raise ConfigError("A single file holds a whole model; give the base model.")
    dtype = dtype_of(options.dtype, model.family.dtype)
    edit, notes = as_weights(edit, model, options)
    with edit.applied(model, force=options.force):
        tensors = original_state(model.pipeline, model.family.name)
        cast = {name: _cast(value, dtype) for name, value in tensors.items()}
        save_tensors(path, cast, file_metadata(edit, **_prediction(model)))
    source = getattr(model.pipeline, "name_or_path", None)
    local = source is not None and (Path(source) / "model_index.json").is_file()
    config = f', config="{source}"' if local else ""
    load_with = f'{type(model.pipeline).__name__}.from_single_file("{path}"{config})'
    report = {"dtype": str(dtype).removeprefix("torch."), "tensors": len(cast)}
    return ExportResult(path, [path], load_with, report, [*notes, *_notes(model)])


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _prediction(model: LoadedModel) -> dict[str, str]:
    """What the model predicts, in ModelSpec's words, which erasekit itself reads."""
    kind = "v" if model.family.prediction_type == "v_prediction" else "epsilon"
    return {"modelspec.prediction_type": kind}


def _notes(model: LoadedModel) -> list[str]:
    if model.family.prediction_type == "epsilon":
        return []
    return [
        f"The model predicts {model.family.prediction_type!r}, which no tensor of a single file "
        "says; tell the program that reads it."
    ]

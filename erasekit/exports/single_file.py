"""`--to single-file`: the whole edited model in one file, in the original layout.

ComfyUI and A1111 load it as any checkpoint; diffusers with `from_single_file`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasekit.edits import Edit, save_tensors
from erasekit.errors import ConfigError, EditError
from erasekit.exports import original_keys as keys
from erasekit.exports.casting import dtype_of
from erasekit.exports.formats import ExportOptions, ExportResult
from erasekit.exports.merging import as_delta
from erasekit.exports.provenance import file_metadata
from erasekit.models.loading import LoadedModel

_ENCODERS: dict[str, list[tuple[str, str, Callable[[dict[str, Tensor]], dict[str, Tensor]]]]] = {
    "sd1": [("text_encoder", keys.CLIP, keys.original_clip)],
    "sd2": [("text_encoder", keys.OPEN_CLIP, keys.original_open_clip)],
    "sdxl": [
        ("text_encoder", keys.XL_CLIP, keys.original_clip),
        ("text_encoder_2", keys.XL_OPEN_CLIP, keys.original_open_clip),
    ],
}
"""By family: the pipeline's text encoders, each with its prefix and how its names change."""


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
    edit, notes = as_delta(edit, model, options)
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


def original_state(pipeline: Any, family: str) -> dict[str, Tensor]:
    """All weights of a pipeline under their original names.

    Args:
        pipeline: UNet, VAE and text encoders of it are taken.
        family: "sd1", "sd2" or "sdxl".

    Raises:
        EditError: another family, or a part of the model has no place in the layout.
    """
    if family not in _ENCODERS:
        raise EditError(
            f"There is no original layout known for the family {family!r}, only for "
            f"{', '.join(_ENCODERS)}; export --to diffusers."
        )
    unet, vae = pipeline.unet, pipeline.vae
    state = {}
    for name, value in keys.original_unet(unet.state_dict(), unet.config).items():
        state[keys.UNET + name] = value
    for name, value in keys.original_vae(vae.state_dict(), vae.config).items():
        state[keys.VAE + name] = value
    for component, prefix, original in _ENCODERS[family]:
        for name, value in original(getattr(pipeline, component).state_dict()).items():
            state[prefix + name] = value
    return state


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

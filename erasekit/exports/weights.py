"""An edit as changed weights: for the other forms, as one file, and read from others' files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from erasekit.edits import SCHEMA, Edit
from erasekit.errors import EditError
from erasekit.exports.formats import ExportOptions, ExportResult, Precision
from erasekit.models.loading import LoadedModel
from erasekit.models.names import PICKLED, pickled
from erasekit.models.original_keys import UNET, unet_module
from erasekit.models.tensor_files import load_tensors
from erasekit.training.run_folder import command, versions

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def dtype_of(precision: Precision | None, default: torch.dtype) -> torch.dtype:
    """The dtype that was asked for, or the default."""
    return default if precision is None else _DTYPES[precision]


def as_weights(edit: Edit, model: LoadedModel, options: ExportOptions) -> tuple[Edit, list[str]]:
    """The edit with its inference part merged into weights, and a note on what that lost.

    Raises:
        EditError: no weights can carry it, or not all of it and `allow_loss` is off; another
            model.
    """
    merged, loss = edit.merged(model, force=options.force, allow_loss=options.allow_loss)
    return merged, [loss] if loss else []


def file_metadata(edit: Edit, **more: str) -> dict[str, str]:
    """Metadata of a safetensors file that other programs read: theirs, and the edit's own."""
    info = json.dumps({"schema": SCHEMA, **edit.info}, ensure_ascii=False)
    return {"format": "pt", **more, "erasekit.base_hash": edit.base_hash, "erasekit.edit": info}


def export_weights(
    edit: Edit, model: LoadedModel | None, path: Path, options: ExportOptions
) -> ExportResult:
    """Write changed tensors, inference part and how they were made as one file, `Edit.save_file`.

    Raises:
        OutputError: the file can't be written, or the disk is full.
    """
    edit.save_file(path)
    return ExportResult(path, [path], f'load_edit("{path}")', {"tensors": len(edit.stored)})


_WHOLE = "is a whole model; name it with --model"
_OTHERS = {
    "lora": "is a LoRA; fuse it into its model and name that",
    "text_model.": "changes a text encoder, which an edit can't carry",
    **dict.fromkeys(("cond_stage_model.", "conditioner.", "first_stage_model."), _WHOLE),
}
"""What a file with such names is."""
_PREFIX = re.compile(rf"^(module\.|unet\.|{re.escape(UNET)}|diffusion_model\.)+")


def import_weights(
    path: Path, model: LoadedModel, concepts: Sequence[str], *, method: str = "imported"
) -> Edit:
    """An edit of a file of UNet weights that others published, as ESD's and UCE's code writes them.

    The file has some or all of the UNet's tensors, under diffusers' names or the original ones,
    with or without the prefix of a whole model. Tensors that are the model's own, in the file's
    precision, are left out.

    Args:
        path: a .safetensors file.
        model: the model it was trained from.
        concepts: what was erased.
        method: how; part of the provenance.

    Raises:
        EditError: the file can't be read or is pickled; a tensor is none of this model's UNet, of
            another shape, or not finite; or nothing is changed.
        ConceptError: a concept is empty or too long.
    """
    said = f"The file {str(path)!r}"
    if path.suffix.lower() in PICKLED:
        raise EditError(f"{said} {pickled(path)}")
    stored, _ = load_tensors(path)
    parameters = dict(model.unet.named_parameters())
    originals = _original_names(model)
    tensors, foreign = {}, []
    for name, value in stored.items():
        bare = _PREFIX.sub("", name)
        own = bare if bare in parameters else originals.get(bare)
        if own is None:
            foreign.append(name)
            continue
        wanted = parameters[own].shape
        if value.shape != wanted:
            if value.numel() != wanted.numel() or 1 not in (*value.shape[2:], *wanted[2:]):
                raise EditError(
                    f"{said} is of another model than {model.id!r}: its {name!r} has shape "
                    f"{tuple(value.shape)}, and the model's {tuple(wanted)}."
                )
            value = value.reshape(wanted)
        if not value.isfinite().all():
            raise EditError(f"{said} is ruined: its {name!r} has values that are no numbers.")
        base = parameters[own].detach().cpu()
        if not torch.equal(base.to(value.dtype), value):
            tensors[own] = value.to(base.dtype)
    if foreign:
        reason = next((r for part, r in _OTHERS.items() if any(part in f for f in foreign)), "")
        raise EditError(
            f"{said} {reason or f'is of another model than {model.id!r}'} (it has {foreign[0]!r})."
        )
    if not tensors:
        raise EditError(f"{said} changes nothing of {model.id!r}: all its tensors are the model's.")
    info = {
        "method": method,
        "concepts": [model.concept(text).text for text in concepts],
        "neutral": "",
        "keep": [],
        "config": {},
        "seed": 0,
        "base_model": {"id": model.id, "hash": model.hash},
        "versions": versions(),
        "command": command(),
        "seconds": {"total": 0.0, "loop": 0.0},
        "unet_passes": {"forward": 0, "backward": 0},
        "imported": {"file": path.name, "tensors": len(stored)},
    }
    return Edit(tensors, info)


def _original_names(model: LoadedModel) -> Mapping[str, str]:
    """From original names of the UNet's parameters to diffusers'; {} where it has no layout."""
    try:
        place = unet_module(model.pipeline.unet.config)
        return {place(name): name for name, _ in model.unet.named_parameters()}
    except EditError:
        return {}

"""An edit as changed weights: for the other forms, as one file, and read from others' files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.edits import SCHEMA, Edit, load_tensors
from erasekit.errors import EditError
from erasekit.exports.formats import ExportOptions, ExportResult, Precision
from erasekit.models.loading import LoadedModel
from erasekit.models.names import PICKLED, conversion_command
from erasekit.models.original_keys import UNET, unet_module
from erasekit.training.run_folder import command, versions

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}


def dtype_of(precision: Precision | None, default: torch.dtype) -> torch.dtype:
    """The dtype that was asked for, or the default."""
    return default if precision is None else DTYPES[precision]


@contextmanager
def casted(pipeline: Any, dtype: torch.dtype) -> Iterator[None]:
    """The pipeline's weights in `dtype` for the block; afterwards its own, bit for bit."""
    originals: list[tuple[Tensor, Tensor]] = []
    try:
        for component in pipeline.components.values():
            if not isinstance(component, nn.Module):
                continue
            for tensor in (*component.parameters(), *component.buffers()):
                if tensor.is_floating_point() and tensor.dtype != dtype:
                    originals.append((tensor, tensor.data))
                    tensor.data = tensor.data.to(dtype)
        yield
    finally:
        for tensor, value in originals:
            tensor.data = value


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


_OTHERS = {
    "lora": "is a LoRA; fuse it into its model and name that",
    "text_model.": "changes a text encoder, which an edit can't carry",
    "cond_stage_model.": "is a whole model; name it with --model",
    "conditioner.": "is a whole model; name it with --model",
    "first_stage_model.": "is a whole model; name it with --model",
}
"""What a file with such names is."""


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
        raise EditError(
            f"{said} is pickled, and reading a pickle can run any code that is in it. Convert it "
            f"once, reading tensors alone: {conversion_command(path)}"
        )
    stored, _ = load_tensors(path)
    parameters = dict(model.unet.named_parameters())
    originals = _original_names(model)
    tensors, foreign = {}, []
    for name, value in stored.items():
        own = _own_name(name, parameters, originals)
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
    texts = [model.concept(text).text for text in concepts]
    info = {
        "method": method,
        "concepts": texts,
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


def _own_name(
    name: str, parameters: Mapping[str, Tensor], originals: Mapping[str, str]
) -> str | None:
    """The parameter that a published name stands for, or None."""
    bare = re.sub(rf"^(module\.|unet\.|{re.escape(UNET)}|diffusion_model\.)+", "", name)
    return bare if bare in parameters else originals.get(bare)

"""`--to diffusers`: the whole edited pipeline as a folder that `from_pretrained` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erasekit.edits import Edit
from erasekit.errors import ConfigError
from erasekit.exports.formats import ExportOptions, ExportResult
from erasekit.exports.weights import as_weights, casted, dtype_of
from erasekit.models.loading import LoadedModel


def export_diffusers(
    edit: Edit,
    model: LoadedModel | None,
    path: Path,
    options: ExportOptions,
    about: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write the folder; takes `dtype`, `max_shard_size` and `allow_loss`.

    The images it draws equal those of the edit in the same precision. `about` is what its
    `erasekit.json` says in place of the edit's `info`.

    Raises:
        EditError: the model is another one, or weights can't carry the edit.
        ConfigError: no model, or a shard size that is none.
        OutputError: the folder can't be written, or the disk is full.
    """
    if model is None:
        raise ConfigError("A diffusers folder holds a whole model; give the base model.")
    if options.max_shard_size is not None:
        _check_size(options.max_shard_size)
    weights, notes = as_weights(edit, model, options)
    with casted(model.pipeline, dtype_of(options.dtype, model.family.dtype)):
        weights.export_diffusers(
            model, path, force=options.force, max_shard_size=options.max_shard_size, about=about
        )
    name = type(model.pipeline).__name__
    return ExportResult(
        path,
        sorted(path.glob("*/*.safetensors")),
        f'{name}.from_pretrained("{path}")',
        {"dtype": str(dtype_of(options.dtype, model.family.dtype)).removeprefix("torch.")},
        notes,
    )


def _check_size(text: str) -> None:
    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]B", text, flags=re.IGNORECASE):
        raise ConfigError(f"The shard size {text!r} is no size; write it like 500MB or 2GB.")

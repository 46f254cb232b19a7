"""`--to delta`: the changed tensors and how they were made, in one file."""

from __future__ import annotations

import json
from pathlib import Path

from erasekit.diffusion.loading import LoadedModel
from erasekit.edits import DELTA_INFO, SCHEMA, Edit, save_tensors
from erasekit.exports.formats import ExportOptions, ExportResult


def export_delta(
    edit: Edit, model: LoadedModel | None, path: Path, options: ExportOptions
) -> ExportResult:
    """Write the file; needs no model and takes no options.

    Raises:
        OutputError: the file can't be written, or the disk is full.
    """
    info = json.dumps({"schema": SCHEMA, **edit.info}, ensure_ascii=False)
    metadata = {
        **{"format": "erasekit", "schema": str(SCHEMA), "base_hash": edit.base_hash},
        DELTA_INFO: info,
    }
    save_tensors(path, edit.tensors, metadata)
    return ExportResult(path, [path], f'load_edit("{path}")', {"tensors": len(edit.tensors)})

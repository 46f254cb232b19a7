"""`--to delta`: the edit in one file: changed tensors, inference part, and how it was made."""

from __future__ import annotations

import json
from pathlib import Path

from erasekit.edits import DELTA_INFO, Edit, save_tensors
from erasekit.exports.formats import ExportOptions, ExportResult
from erasekit.models.loading import LoadedModel


def export_delta(
    edit: Edit, model: LoadedModel | None, path: Path, options: ExportOptions
) -> ExportResult:
    """Write the file; needs no model and takes no options.

    Raises:
        OutputError: the file can't be written, or the disk is full.
    """
    info = json.dumps({"schema": edit.schema, **edit.info}, ensure_ascii=False)
    metadata = {
        **{"format": "erasekit", "schema": str(edit.schema), "base_hash": edit.base_hash},
        DELTA_INFO: info,
    }
    save_tensors(path, edit.stored, metadata)
    return ExportResult(path, [path], f'load_edit("{path}")', {"tensors": len(edit.stored)})

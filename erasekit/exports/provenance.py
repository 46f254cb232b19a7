"""Where a file came from, in its metadata."""

from __future__ import annotations

import json

from erasekit.edits import SCHEMA, Edit


def file_metadata(edit: Edit, **more: str) -> dict[str, str]:
    """Metadata of a safetensors file that other programs read: theirs, and the edit's own."""
    info = json.dumps({"schema": SCHEMA, **edit.info}, ensure_ascii=False)
    return {"format": "pt", **more, "erasekit.base_hash": edit.base_hash, "erasekit.edit": info}

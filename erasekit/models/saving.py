"""Writing a whole pipeline as a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from erasekit.files import atomic_folder, atomic_write_json
from erasekit.models.tensor_files import as_os_error


def save_pipeline(
    pipeline: Any, folder: Path, about: Mapping[str, Any], max_shard_size: str | None = None
) -> None:
    """Write `pipeline` to `folder` when it is whole, safetensors only, with `erasekit.json`.

    Parts of an earlier export there are replaced, other files are kept.

    Args:
        about: how it was made.
        max_shard_size: largest weights file, such as "2GB"; None leaves it to diffusers.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    sharding = {"max_shard_size": max_shard_size} if max_shard_size else {}
    with atomic_folder(folder) as written:
        try:
            pipeline.save_pretrained(written, safe_serialization=True, **sharding)
        except SafetensorError as error:
            raise as_os_error(error) from error
        atomic_write_json(written / "erasekit.json", {"schema": 1, **about})

"""Writing a whole pipeline as a diffusers folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from erasekit.files import writing
from erasekit.models.tensor_files import as_os_error


def save_pipeline(pipeline: Any, folder: Path, max_shard_size: str | None = None) -> None:
    """Write `pipeline` to `folder`, safetensors only.

    Written beside `folder` and moved there when whole; files of the same name and the weights
    of an earlier export are replaced, others are kept.

    Args:
        max_shard_size: largest weights file, such as "2GB"; None leaves it to diffusers.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    sharding = {"max_shard_size": max_shard_size} if max_shard_size else {}
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
            written = Path(name) / "model"
            try:
                pipeline.save_pretrained(written, safe_serialization=True, **sharding)
            except SafetensorError as error:
                raise as_os_error(error) from error
            if folder.exists():
                shutil.copytree(written, folder, dirs_exist_ok=True)
                _remove_other_weights(folder, written)
            else:
                written.replace(folder)


def _remove_other_weights(folder: Path, written: Path) -> None:
    """Remove the weights in `folder` that `written` has not, or readers might take them."""
    for component in written.iterdir():
        if not component.is_dir():
            continue
        for pattern in ("*.safetensors", "*.safetensors.index.json"):
            for path in (folder / component.name).glob(pattern):
                if not (component / path.name).exists():
                    path.unlink()

"""Tensors in files: safetensors alone, written wholly or not at all, the same bytes each time."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from erasekit.errors import EditError
from erasekit.files import atomic_path, why_unreadable, writing


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, wholly or not at all.

    Raises:
        OutputError: it can't be written, or the disk is full.
    """
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, dict(metadata or {}))
        except SafetensorError as error:
            with writing(path):
                raise as_os_error(error) from error
        if metadata:
            _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order of their names; safetensors has them in none.

    The header is a JSON object, its length in 8 bytes before it, spaces behind it.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > length:
            raise ValueError(f"the header of {path} grew from {length} to {len(text)} bytes")
        file.seek(8)
        file.write(text.ljust(length))


def checksum(tensors: Mapping[str, Tensor], note: str = "") -> str:
    """SHA-256 over names, shapes, dtypes and every bit of tensors, and a note; 64 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    digest.update(note.encode())
    return digest.hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        EditError: no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise EditError(f"There is no {str(path)!r}; name a run folder.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise EditError(why_unreadable(path, error)) from error


def as_os_error(error: Exception) -> OSError:
    """The operating system's error that safetensors reports as text."""
    match = re.search(r"os error (\d+)", str(error))
    return OSError(int(match.group(1)) if match else errno.EIO, str(error))

"""Tensors in files: safetensors alone, written wholly or not at all."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from pathlib import Path

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

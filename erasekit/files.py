"""Writing files so that a fault never leaves half of one, and naming run folders."""

from __future__ import annotations

import errno
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erasekit.errors import ErasekitError, OutputError

_UNWRITABLE = (
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.EFBIG, errno.EIO),
)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it when the block ends well, else removed.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files for `path` that a killed process left beside it."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, wholly or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, wholly or not at all."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, wholly or not at all."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write `path` into an `OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"No space left for {str(path)!r}; free some or choose another place with --output."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(
                f"No permission to write {str(path)!r}; choose another folder with --output."
            ) from error
        if error.errno in _UNWRITABLE:
            raise OutputError(
                f"{str(path)!r} can't be written ({error.strerror}); choose another path."
            ) from error
        raise


def new_run_folder(parent: Path, stem: str) -> Path:
    """Make and return the first free of `parent/stem-001`, `parent/stem-002`, ...

    Raises:
        OutputError: `parent` can't be written.
    """
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = parent / f"{stem}-{number:03d}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    raise AssertionError("unreachable")


def check_output_folder(folder: Path, *, overwrite: bool) -> None:
    """Check that `folder` may be filled, and touch nothing.

    Raises:
        OutputError: it exists and is not empty (and `overwrite` is off), is a file, or its
            nearest existing parent can't be written.
    """
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{str(folder)!r} is a file; name a folder.")
        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise OutputError(
                f"{str(folder)!r} exists and is not empty; name another folder or add --overwrite."
            )
        existing = folder
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise OutputError(f"{str(existing)!r} is a file; name a folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise OutputError(
                f"No permission to write {str(folder)!r}; choose another folder with --output."
            )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_json_lines(path: Path, error_class: type[ErasekitError]) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line; empty lines are left out.

    Raises:
        ErasekitError: of `error_class`: it can't be read, or a line is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines if line]
    except (OSError, ValueError, RecursionError) as error:
        raise error_class(f"The file {str(path)!r} is damaged ({error}).") from error
    if not all(isinstance(record, dict) for record in records):
        raise error_class(f"The file {str(path)!r} is damaged (a line is no object).")
    return records

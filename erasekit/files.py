"""Write files and folders wholly or not at all, and name run folders.

Everything is written under a temporary name beside its place (`.erasekit-...`) and renamed when it
is whole. The writer holds a lock on the temporary; what a killed writer left has none, and the next
write beside it removes it.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from erasekit.errors import ErasekitError, OutputError

if sys.platform != "win32":  # there, writers can't be told from remains, so nothing is swept
    import fcntl

TEMPORARY = ".erasekit-"
RUN_MARKS = ("request.json", "edit.json")
"""Files that a run folder has one of: what was asked for, and how its edit was made."""
_ASIDE = f"{TEMPORARY}old-"
"""Before the name of a folder that another one is taking the place of."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNWRITABLE = (
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY),
    *(errno.EFBIG, errno.EIO, errno.EINVAL, errno.ENXIO),
)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it when the block ends well, else removed.

    A symlink stays one: what it points to is written. The file's mode follows the umask.

    Raises:
        OutputError: `path` is there and no regular file, the folder can't be written, or the disk
            is full.
    """
    with writing(path):
        place = _resolved(path, stat.S_ISREG, "file")
        # in a folder, whose lock stays where a library puts another file in the place of this one
        with _temporary_folder(place.parent) as folder:
            temporary = folder / f"new{path.suffix}"
            temporary.touch()
            yield temporary
            _follow_umask(folder)
            temporary.replace(place)


@contextmanager
def atomic_folder(path: Path, *, stale: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder, which takes the place of `path` when the block ends well, else removed.

    Of a folder that is there, entries that the new one has too, and those named in `stale`, go when
    the new one is whole; others are kept. Until then it is as it was.

    Raises:
        OutputError: `path` is there and no folder, it can't be written, or the disk is full.
    """
    with writing(path):
        place = _resolved(path, stat.S_ISDIR, "folder")
        # what can't be renamed, since others stand on it, is filled entry by entry
        inside = place.exists() and (place.is_mount() or place.samefile(Path.cwd()))
        with _temporary_folder(place if inside else place.parent) as temporary:
            yield temporary
            _follow_umask(temporary)
            if not inside:
                _take_place(temporary, place, stale)
                return
            for name in stale:
                _remove(place / name)
            for entry in temporary.iterdir():
                _remove(place / entry.name)
                entry.rename(place / entry.name)


def _take_place(new: Path, place: Path, stale: Collection[str]) -> None:
    """Rename `new` to `place`, with what is kept of the folder that is there."""
    if not place.exists():
        new.rename(place)
        return
    for entry in place.iterdir():
        if entry.name in stale or (new / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=_linked)
        else:
            _linked(entry, new / entry.name)
    aside = place.with_name(f"{_ASIDE}{place.name}")
    handle = _locked(place)
    try:
        place.rename(aside)
        try:
            new.rename(place)
        except OSError:
            aside.rename(place)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        _close(handle)


def _linked(source: Path | str, target: Path | str) -> None:
    """A second name of a file, or a copy where the file system has none."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A locked temporary folder in `parent`, which is swept first; removed after the block."""
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder, handle = _claimed(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(handle)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`; a folder that one had set aside is put back."""
    for name in [entry.name for entry in os.scandir(folder) if entry.name.startswith(TEMPORARY)]:
        left, place = folder / name, folder / name.removeprefix(_ASIDE)
        handle = _locked(left)
        if handle is None:  # its writer is at work, or it is gone, or another user's
            continue
        with suppress(OSError):
            if name.startswith(_ASIDE) and not place.exists():
                left.rename(place)
            else:
                _remove(left)
        _close(handle)


def _claimed(parent: Path) -> tuple[Path, int | None]:
    """A new temporary folder, locked. Another one where a sweep took it for a remain before."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
        handle = _locked(path)
        for _ in range(20):
            if handle is not None or sys.platform == "win32" or not path.exists():
                break
            time.sleep(0.001)  # a sweep has it, or the file system has no locks
            handle = _locked(path)
        if path.exists():
            return path, handle
        _close(handle)


def _locked(path: Path | str) -> int | None:
    """Open and lock a file or folder, until `_close`; None where it can't be had."""
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        os.close(handle)
        return None
    return handle


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make `folder` where it isn't there, and hold it; `OutputError` where another process does."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    handle = _locked(f"{folder}/.")  # what a symlink points to
    if handle is None and sys.platform != "win32":
        raise OutputError(
            f"Another process is writing {str(folder)!r}; wait for it, or name another folder."
        )
    try:
        yield
    finally:
        _close(handle)


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
        above = error.filename and Path(os.fsdecode(error.filename)).parent in path.parents
        said = ""
        if error.errno in _FULL:
            said = f"No space left for {str(path)!r}; free some or choose another place with"
        elif error.errno in _DENIED:
            said = f"No permission to write {str(path)!r}; choose another folder with"
        elif error.errno in _UNWRITABLE or (error.errno == errno.ENOENT and above):  # as in /proc
            said = f"{str(path)!r} can't be written ({error.strerror}); choose another path with"
        if not said:
            raise
        raise OutputError(f"{said} --output.") from error


def why_unreadable(path: Path, error: BaseException) -> str:
    """One sentence on why the file at `path` can't be read: no permission, or it is damaged."""
    denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM)
    if denied or "os error 13" in str(error):  # as safetensors says it
        return f"No permission to read {str(path)!r}; ask its owner for it."
    return f"The file {str(path)!r} is damaged ({error})."


def new_run_folder(parent: Path, stem: str) -> Path:
    """Make and return the first free of `parent/stem-001`, `parent/stem-002`, ..."""
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            with suppress(FileExistsError):
                folder = parent / f"{stem}-{number:03d}"
                folder.mkdir()
                return folder
    raise AssertionError("unreachable")


def check_output_folder(folder: Path, *, overwrite: bool, marks: Collection[str] = ()) -> None:
    """Check that `folder`, which may be missing, may be filled, and touch nothing.

    Args:
        overwrite: it may be full as well.
        marks: files of which such a folder of erasekit has one; a full folder without is refused.

    Raises:
        OutputError: it exists and is not empty (and `overwrite` is off, or it has no mark), is a
            file, or its nearest existing parent can't be written.
    """
    with writing(folder):
        nearest = next(f for f in (folder, *folder.absolute().parents) if f.exists())
        if not nearest.is_dir():
            raise OutputError(f"{str(nearest)!r} is a file; name a folder.")
        inside = folder.iterdir() if nearest == folder else ()
        filled = any(not entry.name.startswith(TEMPORARY) for entry in inside)
        if filled and not overwrite:
            raise OutputError(
                f"{str(folder)!r} exists and is not empty; name another folder or add --overwrite."
            )
        if filled and marks and not any((folder / mark).is_file() for mark in marks):
            raise OutputError(
                f"{str(folder)!r} holds files and no {' or '.join(sorted(marks))}, so erasekit did "
                "not make it; name another folder."
            )
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(
                f"No permission to write {str(folder)!r}; choose another folder with --output."
            )


def read_json(path: Path, error_class: type[ErasekitError]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        error_class: it can't be read, or holds no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise error_class(why_unreadable(path, error)) from error
    if not isinstance(value, dict):
        raise error_class(f"The file {str(path)!r} is damaged (it holds no JSON object).")
    return value


def read_json_lines(path: Path, error_class: type[ErasekitError]) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line; empty lines are left out.

    Raises:
        error_class: it can't be read, or a line is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines if line]
    except (OSError, ValueError, RecursionError) as error:
        raise error_class(why_unreadable(path, error)) from error
    if not all(isinstance(record, dict) for record in records):
        raise error_class(f"The file {str(path)!r} is damaged (a line is no object).")
    return records


def _resolved(path: Path, wanted: Any, kind: str) -> Path:
    """Where `path` leads over symlinks; refuses what is no `kind`, such as a device."""
    mode = None
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
    if mode is not None and not wanted(mode):
        kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "FIFO"))
        found = next((name for test, name in kinds if test(mode)), "device or socket")
        raise OutputError(f"{str(path)!r} is a {found}; name a {kind}.")
    for _ in range(40):  # as many as Linux follows; links above it are followed by the system
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return path


def _follow_umask(folder: Path) -> None:
    """Give a folder and all in it the modes that the umask leaves."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)

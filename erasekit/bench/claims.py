"""Who works on what, where several processes share a store.

A claim is a lock of the operating system on `claims/NAME.lock`. It ends with the process that holds
it, however that ends, so a claim is never stale and needs no heartbeat. Beside it, while it is
held, `NAME.json` says who holds it; that is for people, nothing depends on it.

On a network file system the locks must be the server's: NFS 4, NFS 3 with its lock manager, and
Lustre mounted with `flock` have them. There a dead host's claims end when the server notices.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from erasekit.files import atomic_write_json, writing

POLL = 0.2
"""Seconds between two looks at a claim of another process."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim, since when (ISO 8601, UTC)."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Claims:
    """The claims on the things of one store. Making one touches nothing.

    Args:
        folder: where the locks are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def tried(self, name: str) -> Iterator[bool]:
        """Claim `name` for the block unless another process has it; gives whether it is ours.

        Raises:
            OutputError: the folder can't be written, or the disk is full.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock(name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                mine = False
            else:
                mine = True
        if not mine:
            yield False
            return
        note = self._note(name)
        try:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            atomic_write_json(note, asdict(Holder(socket.gethostname(), os.getpid(), since)))
            yield True
        finally:
            note.unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def held(self, name: str, on_wait: Callable[[Holder | None], None]) -> Iterator[None]:
        """Claim `name` for the block, waiting for whoever has it.

        Raises: as `tried`.
        """
        while True:
            with self.tried(name) as mine:
                if mine:
                    yield
                    return
            on_wait(self.noted(name))
            time.sleep(POLL)

    def noted(self, name: str) -> Holder | None:
        """Who said last to hold `name`, or None."""
        try:
            return Holder(**json.loads(self._note(name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def holder(self, name: str) -> Holder | None:
        """Who holds `name` now, or None. A note that a killed process left does not count."""
        noted = self.noted(name)
        if noted is None:
            return None
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return noted
        except OSError:  # a store that may be read only: the note is all there is
            return noted
        lock.release()
        return None

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / f"{name}.lock")

    def _note(self, name: str) -> Path:
        return self.folder / f"{name}.json"

"""Ctrl-C and SIGTERM: a run stops between two steps, so that no checkpoint is of half a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StopRequests:
    """Hears Ctrl-C and SIGTERM for a run.

    Only in the main thread, and only where nobody else handles the signal.

    Attributes:
        received: the first signal that came; None where none did.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._held = False

    @property
    def asked(self) -> bool:
        """Whether the run should stop."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """What the shell expects of a process that this signal ended."""
        return 128 + (self.received or signal.SIGINT)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """For the block, both signals raise KeyboardInterrupt, or wait where they are `held`."""
        own: dict[signal.Signals, Any] = {
            signal.SIGINT: signal.default_int_handler,
            signal.SIGTERM: signal.SIG_DFL,
        }
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {s: h for s, h in own.items() if signal.getsignal(s) == h}
        for number in before:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the block, signals are noted only; a second Ctrl-C still stops at once."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _receive(self, number: int, _: object) -> None:
        again = self.received == number == signal.SIGINT
        self.received = self.received or number
        if again or not self._held:
            raise KeyboardInterrupt

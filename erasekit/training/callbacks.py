"""What wants to hear of a run."""

from __future__ import annotations

from typing import Any


class Callback:
    """Hears of a run; override what you need. Raising stops the run."""

    def on_status(self, text: str) -> None:
        """Something is being prepared."""

    def on_start(self, step: int, total_steps: int) -> None:
        """Training begins at `step` of `total_steps`."""

    def on_step(self, record: dict[str, Any]) -> None:
        """A step is done; `record` is its line of `history.jsonl`."""

    def on_end(self) -> None:
        """Training is over, well or not."""

"""What wants to hear of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Callback:
    """Hears of a run; override what you need. Raising stops the run."""

    def on_status(self, text: str) -> None:
        """Something is being prepared."""

    def on_start(self, step: int, total_steps: int) -> None:
        """Training begins at `step` of `total_steps`."""

    def on_step(self, record: dict[str, Any]) -> None:
        """A step is done; `record` is its line of `history.jsonl`."""

    def on_weights(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """After `step` steps, what an edit would hold then; copy what you keep.

        Called before the first step too, with `step` 0 (or where a resumed run goes on from).
        """

    def on_end(self) -> None:
        """Training is over, well or not."""

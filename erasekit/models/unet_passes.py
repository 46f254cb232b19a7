"""Counting UNet passes, the unit of cost that does not depend on the machine."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass
class PassCount:
    """Batch-weighted UNet passes: a batch of 8 is 8 forward passes.

    Attributes:
        forward: samples that went through the UNet.
        backward: samples whose output was back-propagated.
    """

    forward: int = 0
    backward: int = 0

    @property
    def cost(self) -> int:
        """Forward + 2 backward: the usual estimate of compute in forward passes."""
        return self.forward + 2 * self.backward

    def snapshot(self) -> PassCount:
        """A copy that does not change."""
        return replace(self)

    def __sub__(self, other: PassCount) -> PassCount:
        return PassCount(self.forward - other.forward, self.backward - other.backward)

    def as_dict(self) -> dict[str, int]:
        """As `edit.json` has it."""
        return {"forward": self.forward, "backward": self.backward}

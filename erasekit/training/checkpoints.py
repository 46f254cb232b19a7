"""The state of a run on disk: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.edits import load_tensors, save_tensors
from erasekit.errors import EditError

CHECKPOINT = "checkpoint.safetensors"
UNPROVEN = "checkpoint.unproven.safetensors"
"""A checkpoint whose weights have not given a finite loss yet."""
REQUEST = "request.json"
_GROUPS = ("parameters", "optimizer", "method", "adversaries")


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Random numbers follow from seed and step, and trajectories from the seed, so neither is kept.

    Attributes:
        step: steps done.
        parameters: theta' in scope.
        optimizer: Adam's moments, "parameter.key".
        method: the method's own state.
        adversaries: embeddings of the adversarial concepts so far, by "step.index".
        passes: UNet passes so far, forward and backward.
        seconds: time spent so far, total and loop.
    """

    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    method: dict[str, Tensor]
    adversaries: dict[str, Tensor]
    passes: dict[str, int]
    seconds: dict[str, float]

    def save(self, path: Path) -> None:
        """Write it; the one before stays until this one is whole.

        Raises:
            OutputError: it can't be written, or the disk is full.
        """
        tensors = {
            f"{group}|{name}": value
            for group in _GROUPS
            for name, value in getattr(self, group).items()
        }
        state = {"step": self.step, "passes": self.passes, "seconds": self.seconds}
        save_tensors(path, tensors, {"state": json.dumps(state)})

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read it.

        Raises:
            EditError: it is not there, or is damaged.
        """
        tensors, metadata = load_tensors(path)
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
        try:
            state: dict[str, Any] = json.loads(metadata["state"])
            for key, value in tensors.items():
                group, _, name = key.partition("|")
                groups[group][name] = value
            return cls(state["step"], **groups, passes=state["passes"], seconds=state["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise EditError(
                f"The file {str(path)!r} is no checkpoint of erasekit; start the run anew."
            ) from error


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's state as named tensors."""
    return {
        f"{name}|{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what `optimizer_tensors` gave."""
    for name, key, value in _split(tensors):
        parameter = parameters[name]
        optimizer.state.setdefault(parameter, {})[key] = _restored(value, parameter)


def _restored(value: Tensor, parameter: nn.Parameter) -> Any:
    """A step that was counted in an int is one again: bitsandbytes takes no tensor for it."""
    if value.dim() == 0:
        return value if value.is_floating_point() else int(value)
    return value.to(parameter.device)


def _split(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    for full, value in tensors.items():
        name, _, key = full.rpartition("|")
        yield name, key, value

"""The state of a run on disk: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.edits import HISTORY
from erasekit.errors import EditError
from erasekit.models.tensor_files import load_tensors, save_tensors

CHECKPOINT = "checkpoint.safetensors"
UNPROVEN = "checkpoint.unproven.safetensors"
"""A checkpoint whose weights have not given a finite loss yet."""
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
        history: the records up to it; not in its file, but in `history.jsonl` beside it.
    """

    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    method: dict[str, Tensor]
    adversaries: dict[str, Tensor]
    passes: dict[str, int]
    seconds: dict[str, float]
    history: tuple[dict[str, Any], ...] = ()

    def save(self, path: Path) -> None:
        """Write it; the one before stays until this one is whole.

        Raises:
            OutputError: it can't be written, or the disk is full.
        """
        groups = {group: getattr(self, group) for group in _GROUPS}
        tensors = {f"{g}|{name}": value for g, own in groups.items() for name, value in own.items()}
        state = {"step": self.step, "passes": self.passes, "seconds": self.seconds}
        save_tensors(path, tensors, {"state": json.dumps(state)})

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read it, with the records up to it.

        Raises:
            EditError: it is not there, is damaged, or some of its steps have no record.
        """
        tensors, metadata = load_tensors(path)
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
        try:
            state: dict[str, Any] = json.loads(metadata["state"])
            for key, value in tensors.items():
                group, _, name = key.partition("|")
                groups[group][name] = value
            own: dict[str, Any] = {name: state[name] for name in ("step", "passes", "seconds")}
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise EditError(
                f"The file {str(path)!r} is no checkpoint of erasekit; start the run anew."
            ) from error
        history = _history_until(own["step"], path.with_name(HISTORY))
        own |= groups
        return cls(**own, history=history)


def _history_until(step: int, path: Path) -> tuple[dict[str, Any], ...]:
    """The first `step` records; a line that a killed process left unfinished comes after them."""
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8").splitlines()[:step]
    try:
        records = tuple(json.loads(line) for line in lines)
        if [record["step"] for record in records] == list(range(step)):
            return records
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise EditError(
        f"The file {str(path)!r} lacks some of the {step} steps of its checkpoint; start the run "
        "anew."
    )


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's state as tensors, by "parameter|key"."""
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
    for full, value in tensors.items():
        name, _, key = full.rpartition("|")
        parameter = parameters[name]
        restored: Any = value.to(parameter.device) if value.dim() else value
        if not value.dim() and not value.is_floating_point():
            restored = int(value)  # a step that was counted in an int: bitsandbytes takes no tensor
        optimizer.state.setdefault(parameter, {})[key] = restored

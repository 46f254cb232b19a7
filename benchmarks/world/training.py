"""What the three trainings share: schedules, moving averages, checkpoints that resume, a log."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn


def cosine(step: int, steps: int, warmup: int, floor: float = 0.02) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def plateau(step: int, steps: int, warmup: int, decay: int, floor: float = 0.02) -> float:
    """Factor of the learning rate: warm-up, constant, and a straight line down at the end.

    Unlike the cosine, nothing before the last `decay` steps depends on `steps`, so a run can be
    made longer or shorter while it goes.
    """
    if step < warmup:
        return (step + 1) / warmup
    left = max(0, steps - step) / max(1, decay)
    return floor + (1 - floor) * min(1.0, left)


class MovingAverage:
    """An exponential moving average of a module's parameters and buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the module as it is."""
        self.decay = decay
        self.steps = 0
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step; early on the average is shorter, so that the start is forgotten."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"decay": self.decay, "steps": self.steps, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint; the decay stays the one given now."""
        self.steps, self.average = state["steps"], state["average"]


def save_atomic(content: dict[str, Any], path: Path) -> None:
    """torch.save that never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None where there is none yet."""
    if not path.exists():
        return None
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


class Log:
    """Prints lines and appends them, as JSON, to a file."""

    def __init__(self, path: Path, quiet: bool = False) -> None:
        """Open (or go on with) the log at `path`."""
        self.path, self.quiet, self.start = path, quiet, time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, **values: float | int | str) -> None:
        """Write one line."""
        if self.quiet:
            return
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        line = {"clock": time.strftime("%H:%M:%S"), **rounded}
        print(" ".join(f"{k}={v}" for k, v in line.items()), flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Stopper:
    """Turns SIGTERM and Ctrl-C into a flag, so that training stops between two steps."""

    def __init__(self) -> None:
        """Install the handlers."""
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

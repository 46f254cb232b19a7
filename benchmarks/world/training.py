"""What the trainings share: the device, budgets, schedules, averages, checkpoints, a log."""

from __future__ import annotations

import json
import math
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

EVERY_SECONDS = 120
"""Between two checkpoints."""


@dataclass(frozen=True)
class Device:
    """Where a training runs: a GPU in bfloat16 and compiled, or the CPU in single precision."""

    name: str
    eager: bool = False
    """Leaves torch.compile out, where it doesn't work."""

    @classmethod
    def of(cls, name: str = "auto", eager: bool = False) -> Device:
        """Take "cuda", "cpu", or with "auto" a GPU where there is one."""
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        return cls(name, eager)

    @property
    def fast(self) -> bool:
        """Whether this is a GPU."""
        return self.name == "cuda"

    def autocast(self) -> AbstractContextManager[Any]:
        """Bfloat16 on a GPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.fast else nullcontext()

    def compiled(self, module: nn.Module) -> Any:
        """The module, compiled on a GPU. Its parameters are the module's own."""
        return torch.compile(module) if self.fast and not self.eager else module


@dataclass
class Budget:
    """How long a training may go on: a number of steps, or minutes over all its runs.

    With steps a run repeats exactly from its seed. With minutes the learning rate depends on the
    clock.
    """

    steps: int | None = None
    minutes: float | None = None
    spent: float = 0.0
    """Seconds spent by earlier runs, from the checkpoint."""

    def __post_init__(self) -> None:
        """Start the clock."""
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give a training either steps or minutes")
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent so far, earlier runs included."""
        return self.spent + time.monotonic() - self.began

    def spent_all(self, step: int, seconds: float) -> bool:
        """Whether earlier runs, of so many steps and seconds, left nothing."""
        if self.steps is not None:
            return step >= self.steps
        assert self.minutes is not None
        return seconds >= 60 * self.minutes

    def progress(self, step: int) -> float:
        """The part of the budget that is spent, at most 1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.minutes is not None
        return min(1.0, self.seconds / (60 * self.minutes))


class Team:
    """Processes of one thread each that average their gradients.

    On small convolutions two are nearly twice as fast as one; two threads are 1.3 times.
    """

    def __init__(self, rank: int = 0, size: int = 1, meeting: str = "") -> None:
        """Wait for the others. meeting: a file that isn't there yet, the same for all."""
        self.rank, self.size = rank, size
        if size > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size
            )

    def agree(self, *values: float) -> list[float]:
        """The largest that any of them has, of each value."""
        if self.size == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        found: list[float] = largest.tolist()
        return found

    def average(self, module: nn.Module) -> None:
        """Make every gradient the mean of theirs."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def leave(self) -> None:
        """Wait until all are done."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


def cosine(step: int, progress: float, warmup: int, floor: float = 0.02) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to `floor`."""
    wave = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / warmup) * wave


def plateau(
    step: int, progress: float, warmup: int, decay: float = 0.25, floor: float = 0.03
) -> float:
    """Factor of the learning rate: warm-up, constant, a straight line down in the last `decay`."""
    left = (1 - progress) / decay
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * min(1.0, left))


class MovingAverage:
    """An exponential moving average of a module's floating-point parameters and buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the module as it is."""
        self.decay, self.steps = decay, 0
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step; early on the average is shorter, so that the start is forgotten."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        state = module.state_dict()
        floats = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[k] for k in floats], [state[k] for k in floats], 1 - decay
        )
        for key in state.keys() - set(floats):
            self.average[key].copy_(state[key])

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint; the decay stays the one given now."""
        self.steps = state["steps"]
        for key, value in self.average.items():
            value.copy_(state["average"][key])


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

    def __init__(self, path: Path) -> None:
        """Open (or go on with) the log at `path`."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, **values: float | int | str) -> None:
        """Write one line."""
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

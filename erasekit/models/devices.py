"""Which device a model is worked on."""

from __future__ import annotations

import os

import torch

from erasekit.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a CUDA GPU where there is one, else the CPU.

    Of several processes, each takes the GPU of its number on this machine.

    Raises:
        ConfigError: no such device here.
    """
    if name not in DEVICES:
        raise ConfigError(f"Unknown device {name!r}; use {', '.join(DEVICES)}.")
    cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if cuda else "cpu"
    if (name == "cuda" and not cuda) or (name == "mps" and not torch.backends.mps.is_available()):
        raise ConfigError(f"PyTorch finds no {name!r} device here; use --device cpu.")
    if name == "cuda":
        place = int(os.environ.get("LOCAL_RANK") or 0)
        if place >= torch.cuda.device_count():
            raise ConfigError(
                f"There are {torch.cuda.device_count()} GPUs for more processes; start one "
                "process for each GPU, or use --device cpu."
            )
        return torch.device(name, place)
    return torch.device(name)

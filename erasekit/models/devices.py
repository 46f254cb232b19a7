"""Which device a model is worked on."""

from __future__ import annotations

import os

import torch

from erasekit.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a CUDA GPU where there is one, else the CPU.

    "cuda:1" is the second GPU, and so on; of several processes, each takes the GPU of its number
    on this machine.

    Raises:
        ConfigError: no such device here.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (":" in name and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"Unknown device {name!r}; use {', '.join(DEVICES)} or cuda:N.")
    cuda = torch.cuda.is_available()
    if name == "auto":
        kind = "cuda" if cuda else "cpu"
    if (kind == "cuda" and not cuda) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise ConfigError(f"PyTorch finds no {name!r} device here; use --device cpu.")
    if kind == "cuda":
        place = int(number or os.environ.get("LOCAL_RANK") or 0)
        if place >= torch.cuda.device_count():
            raise ConfigError(
                f"There are {torch.cuda.device_count()} GPUs, so no number {place}; start one "
                "process for each GPU, or use --device cpu."
            )
        return torch.device(kind, place)
    return torch.device(kind)

"""`erasekit erase` with its defaults on icons, from a cold start to the finished edit."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ERASE = ("erase", "--method", "gumbel", "--concept", "garbage truck")
BRIEF = ("--set", "steps=1", "--no-measure")
"""One step and no measurement: what is left beside its training is start-up and writing."""


def measure(rounds: int) -> list[dict[str, Any]]:
    """Seconds of the whole command, and of a brief one without its training, each a process."""
    whole, start = [], []
    for _ in range(rounds):
        whole.append(_run()[0])
        seconds, training = _run(*BRIEF)
        start.append(seconds - training)
    return [
        _row("erase, drawing and scoring", ERASE, whole),
        _row("start-up and writing", (*ERASE, *BRIEF), start),
    ]


def _run(*options: str) -> tuple[float, float]:
    """Seconds of the process, and of these, of the training."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        command = [sys.executable, "-m", "erasekit", *ERASE, *options, "--output", str(folder)]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        info = json.loads((folder / "edit.json").read_text(encoding="utf-8"))
    return seconds, float(info["seconds"]["total"])


def _row(name: str, command: tuple[str, ...], seconds: list[float]) -> dict[str, Any]:
    return {
        "what": name,
        "command": " ".join(("erasekit", *command)),
        "min": min(seconds),
        "median": statistics.median(seconds),
        "max": max(seconds),
    }

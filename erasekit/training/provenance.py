"""How an edit was made: versions, memory, the command."""

from __future__ import annotations

import platform
import resource
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import erasekit

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors")


def versions() -> dict[str, str]:
    """Versions of erasekit, Python and what the numbers depend on."""
    found = {"erasekit": erasekit.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def command() -> str:
    """The command line of this process, as one would type it."""
    name = Path(sys.argv[0]).name
    first = "python -m erasekit" if name == "__main__.py" else name
    return " ".join([first, *map(shlex.quote, sys.argv[1:])])


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)

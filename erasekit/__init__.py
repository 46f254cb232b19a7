"""erasekit: erase concepts from text-to-image diffusion models, and measure what it costs.

The public names load lazily, so that `import erasekit` needs no torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from erasekit.attacks.run import attack as attack
    from erasekit.bench.measure import benchmark as benchmark
    from erasekit.bench.measure import measure as measure
    from erasekit.concepts import Concept as Concept
    from erasekit.concepts import Erasure as Erasure
    from erasekit.diffusion.sampling import generate as generate
    from erasekit.edits import Edit as Edit
    from erasekit.edits import load_edit as load_edit
    from erasekit.models.loading import load_model as load_model
    from erasekit.training.erase import erase as erase

_HOMES = {
    "attack": "erasekit.attacks.run",
    "Concept": "erasekit.concepts",
    "Edit": "erasekit.edits",
    "Erasure": "erasekit.concepts",
    "benchmark": "erasekit.bench.measure",
    "erase": "erasekit.training.erase",
    "generate": "erasekit.diffusion.sampling",
    "load_edit": "erasekit.edits",
    "load_model": "erasekit.models.loading",
    "measure": "erasekit.bench.measure",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'erasekit' has no attribute {name!r}")
    if "IPython" in sys.modules:
        importlib.import_module("erasekit.notebook").register()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

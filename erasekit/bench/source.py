"""A hash of erasekit's own source, so that a changed line makes what it computed stale."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import erasekit

SAMPLING = ("diffusion", "edits.py", "models")
"""What images depend on."""
TRAINING = (*SAMPLING, "concepts.py", "config.py", "methods", "training")
"""What an edit depends on."""
SCORING = ("bench/sets.py", "bench/sheets.py", "metrics")
"""What scores of images that are there depend on."""
RESOLVED = frozenset({"models/defaults.py"})
"""Defaults: what became of them stands in a cell's settings, so another one makes nothing stale."""


@cache
def source_hash(parts: tuple[str, ...]) -> str:
    """16 hex digits over the .py files of these parts of the package, by path and content."""
    root = Path(erasekit.__file__).parent
    digest = hashlib.sha256()
    for part in sorted(parts):
        for path in sorted([root / part] if part.endswith(".py") else (root / part).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name not in RESOLVED:
                text = path.read_bytes().replace(b"\r\n", b"\n")
                digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]

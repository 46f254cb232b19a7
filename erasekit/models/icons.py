"""The model in the wheel: where it lies and what it draws."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from erasekit.plugin.descriptors import ModelConcept


def embedded_folder() -> Path:
    """Folder of the embedded weights inside the installed package."""
    return Path(str(files("erasekit"))) / "embedded"


def folder() -> str:
    """The diffusers folder of `icons`."""
    return str(embedded_folder() / "icons")


def scorer_folder() -> str:
    """The open_clip folder of `icons-clip`."""
    return str(embedded_folder() / "icons-clip")


@cache
def card() -> dict[str, Any]:
    """icons.json: concepts, guidance, steps, hashes, measured quality."""
    data: dict[str, Any] = json.loads(
        (embedded_folder() / "icons.json").read_text(encoding="utf-8")
    )
    return data


def concepts() -> list[ModelConcept]:
    """The concepts `icons` was trained on."""
    return [
        ModelConcept(
            name=entry["name"],
            kind=entry["kind"],
            family=entry["family"],
            split=entry["split"],
            aliases=tuple(entry.get("aliases", ())),
            styles=tuple(entry.get("styles", ())),
        )
        for entry in card()["concepts"]
    ]

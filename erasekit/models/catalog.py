"""The known models: where they lie, what `icons` draws, and settings that suit them. No torch here.

How the numbers for icons were chosen is in docs/architecture.md, "Defaults on icons".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from erasekit.plugin.descriptors import ModelConcept
from erasekit.recipes import shipped_recipe

ICONS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "*": {
        "steps": 130,
        "learning_rate": 3e-4,
        "batch_size": 0,
        "keep_weight": 3.0,
        "trajectory_steps": 5,
        "trajectory_solver": "dpmsolver++",
        "trajectories": 24,
        "keep_trajectories": 1,
        "num_concepts": 1000,
    },
    "l2": {"keep_weight": 3e-4},
    "pgd": {"keep_weight": 1.0},
}

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "*": {**shipped_recipe("published"), "keep_trajectories": 1}
}
"""For Stable Diffusion, as in the experiments of Bui et al. (NeurIPS 2024): the shipped recipe."""

ICONS_SUITES: Mapping[str, Mapping[str, Any]] = {
    "imagenette": {
        "images_per_concept": 8,
        "images_per_erased": 8,
        "methods": ("none", "neutral", "gumbel"),
        "seeds": 1,
    },
}
"""Sized for two cores: twelve erasures and a thousand images, some minutes."""


def embedded_folder() -> Path:
    """Folder of the embedded weights inside the installed package."""
    return Path(str(files("erasekit"))) / "embedded"


def icons() -> str:
    """The diffusers folder of `icons`."""
    return str(embedded_folder() / "icons")


def icons_clip() -> str:
    """The open_clip folder of `icons-clip`."""
    return str(embedded_folder() / "icons-clip")


@cache
def icons_card() -> dict[str, Any]:
    """icons.json: concepts, guidance, steps, hashes, measured quality."""
    data: dict[str, Any] = json.loads(
        (embedded_folder() / "icons.json").read_text(encoding="utf-8")
    )
    return data


def icons_concepts() -> list[ModelConcept]:
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
        for entry in icons_card()["concepts"]
    ]


def sd14() -> str:
    """Stable Diffusion 1.4, by its makers."""
    return "CompVis/stable-diffusion-v1-4"


def sd15() -> str:
    """Stable Diffusion 1.5, kept by the community since its makers took it down."""
    return "stable-diffusion-v1-5/stable-diffusion-v1-5"


def sd21() -> str:
    """Stable Diffusion 2.1 for 768 pixels, which predicts v."""
    return "stabilityai/stable-diffusion-2-1"


def sdxl() -> str:
    """Stable Diffusion XL base 1.0."""
    return "stabilityai/stable-diffusion-xl-base-1.0"

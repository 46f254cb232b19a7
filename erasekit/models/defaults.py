"""Hyperparameters and suite scales that suit the known models. No torch here.

How the numbers for icons were chosen is in docs/architecture.md, "Defaults on icons".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        "num_concepts": 32,
    },
    "l2": {"keep_weight": 3e-4},
    "pgd": {"keep_weight": 1.0},
}

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "*": {
        "steps": 1000,
        "learning_rate": 1e-5,
        "batch_size": 1,
        "trajectory_steps": 50,
        "trajectory_guidance": 3.0,
        "num_concepts": 1000,
        "centres": 50,
        "keep_trajectories": 1,
    },
}
"""For Stable Diffusion, as in the experiments of Bui et al. (NeurIPS 2024): one row a step, and R
thinned to 50 centres, whose trajectories take 50 x 50 steps once."""

ICONS_SUITES: Mapping[str, Mapping[str, Any]] = {
    "imagenette": {
        "images_per_concept": 8,
        "images_per_erased": 8,
        "methods": ("none", "neutral", "gumbel"),
        "seeds": 1,
    },
}
"""Sized for two cores: twelve erasures and a thousand images, some minutes."""

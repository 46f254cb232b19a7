"""Hyperparameters and suite scales that suit the model in the wheel. No torch here.

How the numbers were chosen is in docs/architecture.md, "Defaults on icons".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ICONS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "*": {"steps": 100, "learning_rate": 3e-4, "batch_size": 8},
}

ICONS_SUITES: Mapping[str, Mapping[str, Any]] = {}

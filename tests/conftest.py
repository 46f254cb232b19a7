"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# For `tests.tiny` and its like; last, so that the installed erasekit is what is tested.
sys.path.append(str(Path(__file__).parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a tiny random model with Stable Diffusion 1's anatomy."""
    from tests.tiny import build_folder

    return build_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def registry():
    """Everything that is registered, built anew for each test."""
    from erasekit.plugin.registry import Registry

    return Registry()


@pytest.fixture
def tiny_model(tiny_folder: Path, registry):
    """The tiny model, loaded."""
    from erasekit.models.loading import load_model

    return load_model(str(tiny_folder), registry)

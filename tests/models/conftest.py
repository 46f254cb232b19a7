"""Tiny random models of every family, as folders, in memory, and as single files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from erasekit.models.loading import LoadedModel, load_model
from erasekit.plugin.registry import Registry
from tests.tiny import build_folder, write_single_file

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A diffusers folder of a tiny random model of each family: 4x8x8 latents."""
    return {name: build_folder(tmp_path_factory.mktemp(name), family=name) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family_model(request: pytest.FixtureRequest, family_folders: dict[str, Path]) -> LoadedModel:
    """The tiny model of each family in turn, loaded."""
    return load_model(str(family_folders[request.param]), Registry())


@pytest.fixture
def loaded(family_folders: dict[str, Path]) -> Callable[[str], LoadedModel]:
    """The tiny model of a family by name, loaded."""
    return lambda family: load_model(str(family_folders[family]), Registry())


@pytest.fixture
def single_file(family_folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Write a family's tiny model as one file in its original layout.

    `configured` puts its configuration beside it: the bundled ones are those of the real sizes.
    """

    def write(family: str, *, configured: bool = True, name: str = "model") -> Path:
        path = tmp_path / f"{name}.safetensors"
        return write_single_file(family_folders[family], path, family, configured=configured)

    return write

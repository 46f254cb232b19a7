"""The tiny model of `erasekit.testing`, under the names that the tests use; and as one file."""

from __future__ import annotations

import shutil
from pathlib import Path

from erasekit.testing.tiny import MAX_TOKENS, WORDS, build_tokenizer
from erasekit.testing.tiny import build_tiny_folder as build_folder

__all__ = ["MAX_TOKENS", "WORDS", "build_folder", "build_tokenizer", "write_single_file"]


def write_single_file(folder: Path, path: Path, family: str, *, configured: bool = True) -> Path:
    """Write a diffusers folder as one file in its family's original layout; gives its path.

    Args:
        configured: put its configuration beside it: the bundled ones are those of the real sizes.
    """
    from safetensors.torch import save_file

    from erasekit.models.loading import load_model
    from erasekit.models.original_keys import original_state
    from erasekit.plugin.registry import Registry

    state = original_state(load_model(str(folder), Registry()).pipeline, family)
    save_file({key: value.clone().contiguous() for key, value in state.items()}, path)
    if configured:
        ignored = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(folder, path.with_suffix(""), ignore=ignored)
    return path

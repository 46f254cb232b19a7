"""Reading a pipeline's weights and configuration from a folder, a single file, or the hub."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from erasekit.errors import ErasekitError, ModelError
from erasekit.files import why_unreadable
from erasekit.models.hub import fetch_folder
from erasekit.models.single_file import read_single_file
from erasekit.models.weight_files import INDEX, PipelineIndex, choose_variant, local_files
from erasekit.plugin.registry import Registry


def read_pipeline(name: str, source: str, registry: Registry, dtype: torch.dtype) -> Any:
    """The diffusers pipeline that lies at `source`, on the CPU.

    Args:
        name: what the user typed, for errors.
        source: a folder, a .safetensors file, or a hub id with or without "@revision".
        dtype: of all its weights.

    Raises:
        ModelError: it can't be found or read, or its family is unknown.
    """
    path = Path(source)
    with quiet(), _reading_errors(name):
        if path.is_file():
            return read_single_file(name, path, registry, dtype)
        folder = path if path.is_dir() else fetch_folder(name, source, registry, dtype)
        with _damage_named(name, folder):
            return _read_folder(name, folder, registry, dtype)


def _read_folder(name: str, folder: Path, registry: Registry, dtype: torch.dtype) -> Any:
    import diffusers

    index = PipelineIndex(name, folder / INDEX, registry)
    for part in set(index.components) - set(index.weighted):
        if not (folder / part).is_dir():
            raise ModelError(
                f"The model {name!r} lacks its part {part!r}, a folder beside {INDEX}; "
                "fetch it again."
            )
    return getattr(diffusers, index.pipeline_class).from_pretrained(
        folder,
        torch_dtype=dtype,
        variant=choose_variant(
            name, local_files(folder), index.weighted, dtype, source=str(folder)
        ),
        use_safetensors=True,
        local_files_only=True,
        **index.families[0].pipeline_options,
    )


@contextmanager
def _reading_errors(name: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise ModelError(
            f"A weights file of the model {name!r} is damaged ({error}); fetch it again."
        ) from error
    except ErasekitError:
        raise
    except PermissionError as error:
        raise ModelError(why_unreadable(Path(error.filename or name), error)) from error
    except Exception as error:  # readers fail in any way on a damaged configuration
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"The model {name!r} can't be read as a diffusers pipeline in safetensors ({line}); "
            "fetch it again, or name a model of a known family."
        ) from error


@contextmanager
def _damage_named(name: str, folder: Path) -> Iterator[None]:
    """Where reading fails on a damaged file of `folder`, say which: libraries often don't."""
    try:
        yield
    except ErasekitError:
        raise
    except Exception as error:  # see `_reading_errors`
        for path in (folder, *folder.glob("*"), *folder.glob("*/*")):
            if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
                raise PermissionError(errno.EACCES, "", str(path)) from error
        for file in local_files(folder):
            if fault := _fault(folder / file):
                raise ModelError(
                    f"The file {file!r} of the model {name!r} is damaged ({fault}); fetch it again."
                ) from error
        raise


def _fault(path: Path) -> str | None:
    """Why a configuration or weights file can't be read, going by its JSON or its header."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.name in ("config.json", "scheduler_config.json", INDEX):
            content = json.loads(path.read_text(encoding="utf-8"))
            return None if isinstance(content, dict) else "not a JSON object"
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return None
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence bars, notes and deprecations of diffusers and transformers for the block."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    verbosities = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for library, verbosity, bar in zip(libraries, verbosities, bars, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()

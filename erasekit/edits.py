"""The artefact of an erasure: the tensors it changed, and how it was made."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from erasekit.diffusion.loading import LoadedModel, hash_pipeline
from erasekit.errors import EditError
from erasekit.files import atomic_path, atomic_write_json, writing

WEIGHTS, INFO, HISTORY = "edit.safetensors", "edit.json", "history.jsonl"
SCHEMA = 1
DELTA_INFO = "edit"
"""Key of a delta file's metadata under which `edit.json` is."""


@dataclass
class Edit:
    """Changed tensors of a UNet, with provenance.

    Attributes:
        tensors: new values by parameter name; what is not named is unchanged.
        info: provenance, as `edit.json` has it (see docs/interface.md).
        history: one record per training step, as `history.jsonl` has it.
        adversaries: embeddings of the adversarial concepts along the run, by
            "step.erased index", each [L, D]; empty where the method has none, and in an edit
            that was read from disk.
    """

    tensors: dict[str, Tensor]
    info: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    adversaries: dict[str, Tensor] = field(default_factory=dict)

    @property
    def base_hash(self) -> str:
        """Hash of the model this edit was made from."""
        return str(self.info["base_model"]["hash"])

    @contextmanager
    def applied(self, pipeline: Any, *, force: bool = False) -> Iterator[Any]:
        """The pipeline with this edit, for the block; afterwards it is as it was, bit for bit.

        Args:
            pipeline: a diffusers pipeline, or a `LoadedModel`.
            force: apply to a model it was not made from.

        Raises:
            EditError: another model, or tensors that are not there or of another shape.
        """
        parameters = self._check(pipeline, force=force)
        originals = {name: parameters[name].data for name in self.tensors}
        try:
            for name, value in self.tensors.items():
                current = parameters[name].data
                parameters[name].data = value.to(current.device, current.dtype, copy=True)
            with _hash_of_the_edited(pipeline):
                yield pipeline
        finally:
            for name, value in originals.items():
                parameters[name].data = value

    def apply(self, pipeline: Any, *, force: bool = False) -> None:
        """Put this edit into the pipeline for good. See `applied` for arguments and errors."""
        parameters = self._check(pipeline, force=force)
        with torch.no_grad():
            for name, value in self.tensors.items():
                parameters[name].copy_(value)
        if isinstance(pipeline, LoadedModel):
            pipeline.hash = hash_pipeline(pipeline.pipeline)

    def export_diffusers(
        self,
        pipeline: Any,
        folder: Path | str,
        *,
        force: bool = False,
        max_shard_size: str | None = None,
    ) -> None:
        """Write the edited model as a diffusers folder that `from_pretrained` reads.

        Weights are written in the pipeline's dtype. Written beside `folder` and moved there when
        whole; files of the same name and the weights of an earlier export are replaced, others
        are kept. `erasekit.exports` has more forms.

        Args:
            pipeline: the base model, a diffusers pipeline or a `LoadedModel`; left as it was.
            folder: where to.
            force: apply to a model it was not made from.
            max_shard_size: largest weights file, such as "2GB"; None leaves it to diffusers.

        Raises:
            EditError: another model.
            OutputError: the folder can't be written, or the disk is full.
        """
        folder = Path(folder)
        inner = pipeline.pipeline if isinstance(pipeline, LoadedModel) else pipeline
        sharding = {"max_shard_size": max_shard_size} if max_shard_size else {}
        with writing(folder), self.applied(pipeline, force=force):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
                written = Path(name) / "model"
                try:
                    inner.save_pretrained(written, safe_serialization=True, **sharding)
                except SafetensorError as error:
                    raise _as_os_error(error) from error
                if folder.exists():
                    shutil.copytree(written, folder, dirs_exist_ok=True)
                    _remove_other_weights(folder, written)
                else:
                    written.replace(folder)

    def _check(self, pipeline: Any, *, force: bool) -> Mapping[str, torch.nn.Parameter]:
        inner = pipeline.pipeline if isinstance(pipeline, LoadedModel) else pipeline
        parameters = dict(inner.unet.named_parameters())
        if not force:
            found = pipeline.hash if isinstance(pipeline, LoadedModel) else hash_pipeline(inner)
            if found != self.base_hash:
                raise EditError(
                    f"This edit was made from a model with hash {self.base_hash[:16]}, and this "
                    f"model has hash {found[:16]}; load {self.info['base_model']['id']!r}, or "
                    "add --force (force=True) to apply it all the same."
                )
        for name, value in self.tensors.items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise EditError(
                    f"This edit does not fit the model: it has no parameter {name!r} of shape "
                    f"{tuple(value.shape)}; load the model it was made from."
                )
        return parameters

    def save(self, folder: Path | str) -> None:
        """Write `edit.safetensors` and `edit.json` into `folder`, each wholly or not at all.

        Raises:
            OutputError: the folder can't be written, or the disk is full.
        """
        folder = Path(folder)
        metadata = {"format": "erasekit", "schema": str(SCHEMA), "base_hash": self.base_hash}
        save_tensors(folder / WEIGHTS, self.tensors, metadata)
        atomic_write_json(folder / INFO, {"schema": SCHEMA, **self.info})


@contextmanager
def _hash_of_the_edited(pipeline: Any) -> Iterator[None]:
    """For the block a `LoadedModel` has the hash of the weights it carries.

    So an edit made from an edited model says so, and one made from the base model is refused.
    """
    if not isinstance(pipeline, LoadedModel):
        yield
        return
    base, pipeline.hash = pipeline.hash, hash_pipeline(pipeline.pipeline)
    try:
        yield
    finally:
        pipeline.hash = base


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, wholly or not at all.

    Raises:
        OutputError: it can't be written, or the disk is full.
    """
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, dict(metadata or {}))
        except SafetensorError as error:
            with writing(path):
                raise _as_os_error(error) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        EditError: no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise EditError(f"There is no {str(path)!r}; name a run folder.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise EditError(
            f"The file {str(path)!r} is damaged or no safetensors file ({error}); make it again."
        ) from error


def load_edit(folder: Path | str) -> Edit:
    """Read an edit from its run folder, or from one file as `--to delta` writes it.

    Raises:
        EditError: no such folder, a file is missing or damaged, or a newer schema.
    """
    folder = Path(folder).expanduser()
    if folder.is_file():
        return _load_delta(folder)
    if not folder.is_dir():
        raise EditError(f"There is no run folder {str(folder)!r}; name one that `erase` wrote.")
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EditError(
            f"The folder {str(folder)!r} has no {INFO}: its run has not finished, or it is no run."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EditError(f"The file {str(folder / INFO)!r} can't be read ({error}).") from error
    _check_info(info, folder / INFO)
    tensors, _ = load_tensors(folder / WEIGHTS)
    return Edit(tensors, info, read_history(folder))


def _load_delta(path: Path) -> Edit:
    tensors, metadata = load_tensors(path)
    if DELTA_INFO not in metadata:
        if path.name == WEIGHTS and (path.parent / INFO).is_file():
            return load_edit(path.parent)
        raise EditError(
            f"The file {str(path)!r} does not say how it was made; name a run folder, or a file "
            "that `erasekit export --to delta` wrote."
        )
    try:
        info = json.loads(metadata[DELTA_INFO])
    except (ValueError, RecursionError) as error:
        raise EditError(f"The file {str(path)!r} is damaged ({error}).") from error
    _check_info(info, path)
    return Edit(tensors, info)


def _check_info(info: Any, path: Path) -> None:
    if not _describes_an_edit(info):
        raise EditError(f"The file {str(path)!r} does not describe an edit.")
    if info.get("schema", 0) > SCHEMA:
        raise EditError(
            f"The edit {str(path)!r} has schema {info['schema']}; this erasekit reads {SCHEMA}. "
            "Upgrade erasekit."
        )


def _describes_an_edit(info: Any) -> bool:
    base = info.get("base_model") if isinstance(info, dict) else None
    return (
        isinstance(base, dict)
        and all(isinstance(base.get(key), str) for key in ("id", "hash"))
        and isinstance(info.get("schema", 0), int)
    )


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The records of `history.jsonl`, or [] where there is none.

    Raises:
        EditError: it can't be read, or a line is no JSON object.
    """
    path = folder / HISTORY
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines if line]
    except (OSError, ValueError, RecursionError) as error:
        raise EditError(f"The file {str(path)!r} is damaged ({error}).") from error
    if not all(isinstance(record, dict) for record in records):
        raise EditError(f"The file {str(path)!r} is damaged (a line is no object).")
    return records


def _remove_other_weights(folder: Path, written: Path) -> None:
    """Remove the weights in `folder` that `written` has not, or readers might take them."""
    for component in written.iterdir():
        if not component.is_dir():
            continue
        for pattern in ("*.safetensors", "*.safetensors.index.json"):
            for path in (folder / component.name).glob(pattern):
                if not (component / path.name).exists():
                    path.unlink()


def _as_os_error(error: Exception) -> OSError:
    """The operating system's error that safetensors reports as text."""
    import errno
    import re

    match = re.search(r"os error (\d+)", str(error))
    return OSError(int(match.group(1)) if match else errno.EIO, str(error))

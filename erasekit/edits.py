"""The artefact of an erasure: the tensors it changed, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from erasekit.diffusion.inference_parts import (
    InferencePart,
    InferenceRecord,
    build_part,
    check_installed,
    is_description,
)
from erasekit.errors import EditError
from erasekit.files import (
    atomic_folder,
    atomic_write_json,
    read_json,
    read_json_lines,
    why_unreadable,
)
from erasekit.models.families import FamilyAdapter, adapter_for
from erasekit.models.loading import LoadedModel, hash_pipeline
from erasekit.models.pipeline_state import CarriedEdit, carried_edits, carrying
from erasekit.models.tensor_files import as_os_error, checksum, load_tensors, save_tensors
from erasekit.plugin.registry import Registry

WEIGHTS, INFO, HISTORY = "edit.safetensors", "edit.json", "history.jsonl"
SCHEMA, PLAIN_SCHEMA = 2, 1
"""Of edits with an inference part, which older versions must not take for plain ones; of others."""
INFERENCE = "inference|"
"""Before the names of an inference part's tensors, in the file with the changed ones."""
EDIT_INFO = "edit"
"""Key of the metadata under which `edit.json` is in an edit of one file."""
CHECKSUM = "sha256"
"""Key of `edit.json` for the checksum of the tensors; edits of erasekit before 0.2 have none."""
_FOR_GOOD = "_erasekit_for_good"
"""Attribute of a UNet that holds on to the inference parts that were put in for good."""


@dataclass(repr=False)
class Edit:
    """What an erasure changes, with provenance: tensors of a UNet, an inference part, or both.

    Edits are of three kinds, which behave alike: *weights* are changed tensors, an *adapter* adds
    to layers, a *hook* changes how images are drawn. The last two are inference parts
    (`erasekit.diffusion.inference_parts`), which a plugin registers.

    Several edits of one model may be applied at once, one within the other. An inference part goes
    with everything; weights beside weights are refused, since they were not made for each other:
    the parameters that both change are named, and with `force` the one applied last wins.

    Attributes:
        tensors: new values by parameter name; what is not named is unchanged.
        info: provenance, as `edit.json` has it (see docs/interface.md).
        history: one record per training step, as `history.jsonl` has it.
        adversaries: embeddings of the adversarial concepts along the run, by
            "step.erased index", each [L, D]; empty where the method has none, and in an edit
            that was read from disk.
        inference_tensors: of the inference part, by name.
        registry: where the inference part is registered; None takes the model's.
    """

    tensors: dict[str, Tensor]
    info: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    adversaries: dict[str, Tensor] = field(default_factory=dict)
    inference_tensors: dict[str, Tensor] = field(default_factory=dict)
    registry: Registry | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        info = self.info
        return (
            f"<Edit of {info['base_model']['id']!r}: {', '.join(info.get('concepts', []))} erased "
            f"by {info.get('method')}; {' and '.join(self.kinds)}, {len(self.stored)} tensors of "
            f"{sum(value.numel() for value in self.stored.values())} numbers>"
        )

    @property
    def inference(self) -> InferenceRecord | None:
        """The inference part, or None."""
        described = self.info.get("inference")
        if described is None:
            return None
        return InferenceRecord(described["name"], described["settings"], self.inference_tensors)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of "weights", "adapter" and "hook" it is; one may be weights and another."""
        described = self.info.get("inference")
        if described is None:
            return ("weights",)
        return (*(("weights",) if self.tensors else ()), str(described["kind"]))

    @property
    def schema(self) -> int:
        """What `edit.json` says, so that no version reads an edit that it would take for less."""
        return PLAIN_SCHEMA if self.inference is None else SCHEMA

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
            EditError: another model; tensors that are not there or of another shape; other weights
                are applied; the inference part is not installed, or does not fit.
        """
        with ExitStack() as stack:
            self._enter(stack, pipeline, force, for_good=False)
            if not isinstance(pipeline, LoadedModel):
                yield pipeline
                return
            # so an edit made from an edited model says so, and one of the base model is refused
            before, pipeline.hash = pipeline.hash, hash_pipeline(pipeline.pipeline)
            try:
                yield pipeline
            finally:
                pipeline.hash = before

    def apply(self, pipeline: Any, *, force: bool = False) -> None:
        """Put this edit into the pipeline for good. See `applied`."""
        self._enter(ExitStack(), pipeline, force, for_good=True)
        if isinstance(pipeline, LoadedModel):
            pipeline.hash = hash_pipeline(pipeline.pipeline)

    def _enter(self, stack: ExitStack, pipeline: Any, force: bool, for_good: bool) -> None:
        """Change the pipeline; `stack` takes it back."""
        unet = _inner(pipeline).unet
        base = self._check_model(pipeline, force=force)
        parameters = self.parameters_of(unet)
        part, family = self._part(pipeline)
        for name, value in self.tensors.items():
            parameter = parameters[name]
            if for_good:
                parameter.data.copy_(value)
            else:
                stack.callback(setattr, parameter, "data", parameter.data)
                parameter.data = value.to(parameter.device, parameter.dtype, copy=True)
        if part is not None and family is not None:
            stack.enter_context(part.installed(family))
            if for_good:  # who lets go of it takes it away
                unet.__dict__.setdefault(_FOR_GOOD, []).append(stack)
        if not for_good or part is not None:
            identity = self.inference.identity if self.inference else ""
            carried = CarriedEdit(base, frozenset(self.tensors), identity)
            stack.enter_context(carrying(unet, carried))

    def parameters_of(self, unet: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that this edit changes, by name.

        Raises:
            EditError: the UNet lacks one, or has it in another shape.
        """
        parameters = dict(unet.named_parameters())
        for name, value in self.tensors.items():
            found = tuple(parameters[name].shape) if name in parameters else "no such tensor"
            if found != tuple(value.shape):
                raise EditError(
                    f"This edit does not fit the model: its {name!r} has shape "
                    f"{tuple(value.shape)}, and the model has {found}; only models of one "
                    "architecture can share an edit."
                )
        return {name: parameters[name] for name in self.tensors}

    def with_values(self, trained: Mapping[str, Tensor], **info: Any) -> Edit:
        """This edit with other trained values, as along its run, and further provenance.

        Args:
            trained: by name, changed tensors and the inference part's.
        """
        own = self.inference_tensors
        return replace(
            self,
            tensors={name: value for name, value in trained.items() if name not in own},
            inference_tensors={**own, **{name: trained[name] for name in own if name in trained}},
            info={**self.info, **info},
            history=[],
            adversaries={},
        )

    def merged(
        self, pipeline: Any, *, force: bool = False, allow_loss: bool = False
    ) -> tuple[Edit, str]:
        """This edit as weights, and a sentence on what weights can't carry of it, or "".

        An edit without an inference part is returned as it is.

        Raises:
            EditError: weights can't carry it, or not all and `allow_loss` is off; another model.
        """
        part, _ = self._part(pipeline)
        if part is None:
            return self, ""
        self._check_model(pipeline, force=force)
        values = {name: p.detach() for name, p in _inner(pipeline).unet.named_parameters()}
        merged = part.merged({**values, **self.tensors})
        if merged.loss and not allow_loss:
            raise EditError(f"{merged.loss} Export --to weights, or add --allow-loss.")
        info = {**self.info, "merged": self.info["inference"], "schema": PLAIN_SCHEMA}
        del info["inference"]
        return Edit({**self.tensors, **merged.tensors}, info, self.history), merged.loss

    def _part(self, pipeline: Any) -> tuple[InferencePart | None, FamilyAdapter | None]:
        """The inference part, checked, and the adapter it is installed with; None without one."""
        record = self.inference
        if record is None:
            return None, None
        if isinstance(pipeline, LoadedModel):
            registry, family = self.registry or pipeline.registry, pipeline.family
        else:
            registry = self.registry or Registry()
            _, family = adapter_for(pipeline, registry)
        check_installed(self.info["inference"], registry)
        part = build_part(record, registry)
        part.check(family)
        return part, family

    def export_diffusers(
        self,
        pipeline: Any,
        folder: Path | str,
        *,
        force: bool = False,
        max_shard_size: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the edited model as a diffusers folder that `from_pretrained` reads.

        Weights are written in the pipeline's dtype. Written beside `folder` and moved there when
        whole; parts of an earlier export are replaced, other files are kept. `erasekit.exports` has
        more forms.

        Args:
            pipeline: the base model, a diffusers pipeline or a `LoadedModel`; left as it was.
            force: apply to a model it was not made from.
            max_shard_size: largest weights file, such as "2GB"; None leaves it to diffusers.
            about: what `erasekit.json` says in place of this edit's `info`.

        Raises:
            EditError: another model, or an inference part that weights can't carry (`merged`).
            OutputError: the folder can't be written, or the disk is full.
        """
        weights, _ = self.merged(pipeline, force=force)
        sharding = {"max_shard_size": max_shard_size} if max_shard_size else {}
        with weights.applied(pipeline, force=force), atomic_folder(Path(folder)) as written:
            try:
                _inner(pipeline).save_pretrained(written, safe_serialization=True, **sharding)
            except SafetensorError as error:
                raise as_os_error(error) from error
            described = {"schema": 1, **(about or {"edit": self.info})}
            atomic_write_json(written / "erasekit.json", described)

    def _check_model(self, pipeline: Any, *, force: bool) -> str:
        """The hash of the model under all edits, "" where nobody need know; refuses another model.

        That is one which this edit was not made from, be it under edits of which at most one, this
        one included, changes parameters.
        """
        carried = carried_edits(_inner(pipeline).unet)
        if force and (carried or not isinstance(pipeline, LoadedModel)):
            return carried[0].base if carried else ""
        found = pipeline.hash if isinstance(pipeline, LoadedModel) else hash_pipeline(pipeline)
        base = carried[0].base if carried else found
        if force or found == self.base_hash:
            return base
        if carried and base == self.base_hash:
            changed = frozenset().union(*(edit.parameters for edit in carried))
            shared = [name for name in self.tensors if name in changed]
            if not self.tensors or not changed:
                return base
            if shared:
                raise EditError(
                    f"This edit and one that is applied already change the same {len(shared)} "
                    f"parameters, such as {shared[0]!r}; apply one at a time, or add --force "
                    "(force=True), and the last one wins."
                )
        raise EditError(
            f"This edit was made from a model with hash {self.base_hash[:16]}, and this model has "
            f"hash {found[:16]}; load {self.info['base_model']['id']!r}, or add --force "
            "(force=True) to apply it all the same."
        )

    @property
    def stored(self) -> dict[str, Tensor]:
        """All tensors, by their names on disk."""
        own = {INFERENCE + name: value for name, value in self.inference_tensors.items()}
        return {**self.tensors, **own}

    def save(self, folder: Path | str) -> None:
        """Write `edit.safetensors` and `edit.json` into `folder`, each wholly or not at all.

        Raises:
            OutputError: the folder can't be written, or the disk is full.
        """
        save_tensors(Path(folder) / WEIGHTS, self.stored, self.metadata)
        atomic_write_json(Path(folder) / INFO, self.described)

    def save_file(self, path: Path | str) -> None:
        """Write the edit as one file, as `--to weights` does. See `save`."""
        described = json.dumps(self.described, ensure_ascii=False)
        save_tensors(Path(path), self.stored, {**self.metadata, EDIT_INFO: described})

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the file of its tensors."""
        return {"format": "erasekit", "schema": str(self.schema), "base_hash": self.base_hash}

    @property
    def described(self) -> dict[str, Any]:
        """`edit.json`: schema, provenance, and a checksum of the tensors."""
        return {"schema": self.schema, **self.info, CHECKSUM: checksum(self.stored)}


def _inner(pipeline: Any) -> Any:
    """The diffusers pipeline of a `LoadedModel`, or the pipeline itself."""
    return pipeline.pipeline if isinstance(pipeline, LoadedModel) else pipeline


def load_edit(folder: Path | str, registry: Registry | None = None) -> Edit:
    """Read an edit from its run folder, or from one file as `--to weights` writes it.

    Args:
        registry: where its inference part is registered; None loads what is installed.

    Raises:
        EditError: no such folder, a file is missing or damaged, a newer schema, or the plugin of
            its inference part is not installed.
    """
    path = Path(folder).expanduser()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
        if is_file and path.name == WEIGHTS and (path.parent / INFO).is_file():
            path, is_file, is_folder = path.parent, False, True
    except PermissionError as error:  # a folder above it is closed
        raise EditError(why_unreadable(path, error)) from error
    if not is_file and not is_folder:
        raise EditError(f"There is no run folder {str(path)!r}; name one that `erase` wrote.")
    info_path, weights = (path, path) if is_file else (path / INFO, path / WEIGHTS)
    if is_file:
        stored, metadata = load_tensors(path)
        info = _info_in_file(path, metadata)
    else:
        info = _info_in_folder(path)
    if not _describes_an_edit(info):
        raise EditError(f"The file {str(info_path)!r} does not describe an edit.")
    if info.get("schema", 0) > SCHEMA:
        raise EditError(
            f"The edit {str(info_path)!r} has schema {info['schema']}; this erasekit reads "
            f"{SCHEMA}. Upgrade erasekit."
        )
    if is_folder:
        stored, _ = load_tensors(weights)
    expected = info.pop(CHECKSUM, None)
    if expected is not None and expected != checksum(stored):
        raise EditError(
            f"The file {str(weights)!r} is damaged: its tensors don't have the checksum that was "
            "written with them; fetch or make it again."
        )
    tensors = {name: value for name, value in stored.items() if not name.startswith(INFERENCE)}
    of_part = {n.removeprefix(INFERENCE): v for n, v in stored.items() if n not in tensors}
    if info.get("inference") is not None:
        registry = registry or Registry()
        check_installed(info["inference"], registry)
    history = [] if is_file else read_history(path)
    return Edit(tensors, info, history, {}, of_part, registry)


def _info_in_folder(folder: Path) -> Any:
    try:
        return read_json(folder / INFO, EditError)
    except FileNotFoundError as error:
        raise EditError(
            f"The folder {str(folder)!r} has no {INFO}: its run has not finished, or it is no run."
        ) from error


def _info_in_file(path: Path, metadata: Mapping[str, str]) -> Any:
    if EDIT_INFO not in metadata:
        raise EditError(
            f"The file {str(path)!r} does not say how it was made; name a run folder, or a file "
            "that `erasekit export --to weights` wrote; `erasekit import` reads those of others."
        )
    try:
        return json.loads(metadata[EDIT_INFO])
    except (ValueError, RecursionError) as error:
        raise EditError(f"The file {str(path)!r} is damaged ({error}).") from error


def _describes_an_edit(info: Any) -> bool:
    base = info.get("base_model") if isinstance(info, dict) else None
    return (
        isinstance(base, dict)
        and is_description(info.get("inference"))
        and all(isinstance(base.get(key), str) for key in ("id", "hash"))
        and isinstance(info.get("schema", 0), int)
    )


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The records of `history.jsonl`, or [] where there is none; `EditError` of a damaged one."""
    path = folder / HISTORY
    return read_json_lines(path, EditError) if path.is_file() else []

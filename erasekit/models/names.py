"""What a model's name means: a registered model, a folder, a single file, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from erasekit.errors import ModelError, UnknownNameError
from erasekit.plugin.descriptors import ModelDescriptor
from erasekit.plugin.registry import Registry

PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
"""Endings of files that run code when they are read."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def plain_descriptor(id: str) -> ModelDescriptor:
    """Registration of a model that nobody registered: Stable Diffusion's usual settings."""
    return ModelDescriptor(id, "not registered", "", scorer="open_clip")


def split_revision(name: str) -> tuple[str, str]:
    """Name and revision of "name@revision"; "" without one."""
    base, _, revision = name.partition("@")
    return base, revision


def resolve_source(name: str, registry: Registry) -> tuple[ModelDescriptor, str]:
    """The registration of `name`, and the folder, file or hub id that holds its weights.

    A hub id, or a registered model on the hub, takes a branch, tag or commit: "name@revision".
    The source then ends in "@revision" too.

    Raises:
        ModelError: it looks like a folder or a file and is not one, or the file is pickled.
        UnknownNameError: it is neither registered, a folder, a file, nor shaped like a hub id.
    """
    if not name.strip():
        raise ModelError("The model's name is empty; name one, as in --model icons.")
    known = registry.models()
    if name in known:
        descriptor = registry.model(name)
        return descriptor, str(descriptor.load()())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ModelError(
                f"The folder {name!r} has no model_index.json; name a diffusers pipeline folder."
            )
        return _same_as_registered(str(path), registry), str(path)
    if path.suffix.lower() in (".safetensors", *PICKLED):
        if not path.is_file():
            raise ModelError(f"There is no file {name!r}; name a .safetensors file.")
        if path.suffix.lower() in PICKLED:
            raise ModelError(f"The file {name!r} {pickled(path)}")
        return plain_descriptor(name), str(path)
    base, revision = split_revision(name)
    if revision and base in known:
        descriptor = registry.model(base)
        source = str(descriptor.load()())
        if not _HUB_ID.fullmatch(source) or Path(source).is_absolute():
            raise ModelError(f"The model {base!r} is not on the hub, so it has no revisions.")
        return descriptor, f"{source}@{revision}"
    if path.is_absolute() or name.startswith((".", "~")) or base.count("/") > 1:
        raise ModelError(f"There is no folder {name!r}; name a diffusers pipeline folder.")
    if _HUB_ID.fullmatch(base):
        same = _same_as_registered(base, registry)
        return (plain_descriptor(name) if same.name == base else same), name
    registry.model(name)  # raises: two plugins that claim it, or unknown
    raise UnknownNameError("model", name, known)


def place_of(name: str, registry: Registry) -> str:
    """Folder or hub id of a registered model, without revision; any other name as it is."""
    base, _ = split_revision(name)
    known = registry.models()
    return str(known[base].load()()) if base in known else name


def pickled(path: Path) -> str:
    """Why a pickled file is not read, as the end of a sentence, and how to convert it."""
    return (
        "is pickled, and reading a pickle can run any code that is in it. Convert it once, reading "
        f"tensors alone: {conversion_command(path)}"
    )


def conversion_command(path: Path) -> str:
    """A command that rewrites a pickled checkpoint as safetensors, and runs nothing in it."""
    return (
        'python -c "import torch, safetensors.torch as s; '
        f"d = torch.load(r'{path}', map_location='cpu', weights_only=True); "
        "d = d.get('state_dict', d); "
        "s.save_file({k: v.clone().contiguous() for k, v in d.items() if hasattr(v, 'shape')}, "
        f"r'{path.with_suffix('.safetensors')}')\""
    )


def _same_as_registered(source: str, registry: Registry) -> ModelDescriptor:
    """The registration whose folder or hub id is `source`, or a plain one named so."""
    path = Path(source)
    for descriptor in registry.models().values():
        try:
            own = Path(str(descriptor.load()()))
        except Exception:  # a plugin's own code; it is reported where its model is asked for
            continue
        if str(own) == source or (path.is_dir() and own.is_dir() and own.samefile(path)):
            return descriptor
    return plain_descriptor(source)

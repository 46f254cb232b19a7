"""Loading a model by registered name, hub id or local folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from erasekit.concepts import KINDS, Concept, Kind, normalised
from erasekit.diffusion.families import FamilyAdapter, adapter_for
from erasekit.diffusion.passes import PassCount
from erasekit.errors import ModelError, UnknownNameError
from erasekit.plugin.descriptors import Descriptor, ModelConcept, ModelDescriptor
from erasekit.plugin.registry import Registry

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class LoadedModel:
    """A pipeline in memory, with what erasekit knows about it.

    Attributes:
        id: what the user typed.
        descriptor: its registration; a plain one for hub ids and folders.
        pipeline: the diffusers pipeline; UNet in eval mode, no parameter requires a gradient.
        family: the adapter of its family.
        hash: 64 hex digits over the weights of UNet and text encoder.
        concepts: what the model is known to draw; empty where there is no list.
    """

    id: str
    descriptor: ModelDescriptor
    pipeline: Any
    family: FamilyAdapter
    hash: str
    concepts: list[ModelConcept] = field(default_factory=list)

    @property
    def unet(self) -> nn.Module:
        return self.family.unet

    @property
    def passes(self) -> PassCount:
        return self.family.passes

    def known_concept(self, text: str) -> ModelConcept | None:
        """The entry of the model's list whose name or alias is `text`, or None."""
        wanted = normalised(text)
        for concept in self.concepts:
            if wanted in map(normalised, (concept.name, *concept.aliases)):
                return concept
        return None

    def concept(self, text: str, kind: Kind | None = None) -> Concept:
        """A `Concept` of `text`, with kind and aliases from the model's list where it has them.

        Raises:
            ConceptError: empty, or longer than the tokenizer's limit.
        """
        known = self.known_concept(text)
        names = (known.name, *known.aliases) if known else ()
        kinds: dict[str, Kind] = {k: k for k in KINDS}  # type: ignore[misc]
        found = Concept(
            text,
            kind or (kinds.get(known.kind, "object") if known else "object"),
            tuple(name for name in names if normalised(name) != normalised(text)),
        )
        self.family.check_prompt(found.text)
        return found


def load_model(
    name: str,
    registry: Registry,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    """Load `name`: a registered model, a local diffusers folder, or a hub id.

    The safety checker is not loaded: its black images would look like success. Only safetensors
    are read, and no code from a model's repository is run.

    Raises:
        ModelError: it can't be found or read, or its family is unknown.
        UnknownNameError: it is neither registered, a folder, nor shaped like a hub id.
    """
    descriptor, source = resolve_source(name, registry)
    pipeline = _read_pipeline(name, source, dtype).to(device)
    return wrap_pipeline(pipeline, name, descriptor, registry)


def wrap_pipeline(
    pipeline: Any,
    id: str = "in memory",
    descriptor: ModelDescriptor | None = None,
    registry: Registry | None = None,
) -> LoadedModel:
    """A `LoadedModel` of a pipeline that is in memory already.

    Freezes its parameters and puts the UNet in eval mode; changes nothing else.

    Args:
        registry: where families come from; None loads what is installed.

    Raises:
        ModelError: its family is unknown, or its adapter can't work on it.
    """
    descriptor = descriptor or plain_descriptor(id)
    family = adapter_for(pipeline, registry or Registry(), descriptor.family)
    for module in (pipeline.unet, pipeline.vae, *family.text_encoders()):
        module.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    concepts: list[ModelConcept] = []
    if descriptor.concepts:
        concepts = Descriptor("concepts", "", descriptor.concepts).load()()
    if not descriptor.family:
        descriptor = replace(descriptor, family=family.name)
    return LoadedModel(id, descriptor, pipeline, family, hash_pipeline(pipeline), concepts)


def plain_descriptor(id: str) -> ModelDescriptor:
    """Registration of a model that nobody registered: Stable Diffusion's usual settings."""
    return ModelDescriptor(id, "not registered", "", scorer="open_clip")


def resolve_source(name: str, registry: Registry) -> tuple[ModelDescriptor, str]:
    """The registration of `name`, and the folder or hub id that holds its files.

    Raises:
        ModelError: it looks like a folder and is not one.
        UnknownNameError: it is neither registered, a folder, nor shaped like a hub id.
    """
    if not name.strip():
        raise ModelError("The model's name is empty; name one, as in --model icons.")
    if name in registry.models():
        descriptor = registry.model(name)
        return descriptor, str(descriptor.load()())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ModelError(
                f"The folder {name!r} has no model_index.json; name a diffusers pipeline folder."
            )
        return _same_as_registered(path, registry), str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"There is no folder {name!r}; name a diffusers pipeline folder.")
    if _HUB_ID.fullmatch(name):
        return replace(plain_descriptor(name), target=""), name
    registry.model(name)  # raises: two plugins that claim it, or unknown
    raise UnknownNameError("model", name, registry.models())


def _same_as_registered(path: Path, registry: Registry) -> ModelDescriptor:
    for descriptor in registry.models().values():
        source = Path(str(descriptor.load()()))
        if source.is_dir() and source.resolve() == path.resolve():
            return descriptor
    return plain_descriptor(str(path))


def _read_pipeline(name: str, source: str, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionPipeline
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from safetensors import SafetensorError

    local = Path(source).is_dir()
    try:
        with _quiet():
            pipeline = StableDiffusionPipeline.from_pretrained(
                source,
                safety_checker=None,
                requires_safety_checker=False,
                use_safetensors=True,
                local_files_only=local,
            )
            return pipeline.to(dtype)
    except GatedRepoError as error:
        raise ModelError(
            f"The model {name!r} is gated; accept its licence on the hub and set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {name!r} that you may read; check the id, or set HF_TOKEN."
        ) from error
    except SafetensorError as error:
        raise ModelError(
            f"A weights file of the model {name!r} is damaged ({error}); fetch it again."
        ) from error
    except (OSError, ValueError) as error:
        if local:
            raise ModelError(
                f"The folder {name!r} can't be read as a Stable Diffusion pipeline in safetensors "
                f"({_first_line(error)})."
            ) from error
        raise ModelError(
            f"The model {name!r} is not in the local cache and the hub can't be reached; connect, "
            "or name a local folder, or use --model icons."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and notes of diffusers and transformers for the block."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    verbosities = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, bar in zip(libraries, verbosities, bars, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()


def hash_pipeline(pipeline: Any) -> str:
    """Hash of a pipeline's text encoders and UNet, 64 hex digits. See `hash_weights`."""
    parts = (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None), pipeline.unet)
    return hash_weights([part for part in parts if part is not None])


@torch.no_grad()
def hash_weights(modules: Iterable[nn.Module]) -> str:
    """SHA-256 over names, shapes and values of all parameters, 64 hex digits.

    Values are rounded to fp16 first, so that the fp32 and fp16 files of one model agree.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            values = tensor.detach().to("cpu")
            if values.is_floating_point():
                values = values.to(torch.float16)
            digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

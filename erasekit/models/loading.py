"""Loading a model by registered name, hub id, local folder or single file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from erasekit.concepts import Concept, Kind, normalised
from erasekit.errors import ConfigError, ModelError
from erasekit.files import why_unreadable
from erasekit.models.families import FamilyAdapter, adapter_for
from erasekit.models.names import plain_descriptor, resolve_source
from erasekit.models.pipeline_files import quiet, read_folder, reading_errors
from erasekit.models.pipeline_state import carried_edits, check_plain, freeze
from erasekit.models.unet_passes import PassCount
from erasekit.plugin.descriptors import Descriptor, ModelConcept, ModelDescriptor
from erasekit.plugin.registry import Registry

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(repr=False)
class LoadedModel:
    """A pipeline in memory, with what erasekit knows about it.

    Attributes:
        id: what the user typed.
        descriptor: its registration; a plain one for hub ids and folders.
        pipeline: the diffusers pipeline.
        family: the adapter of its family.
        hash: 64 hex digits over the weights of UNet and text encoder.
        registry: what was registered when it was loaded: families, methods, scorers, and so on.
        concepts: what the model is known to draw; empty where there is no list.
    """

    id: str
    descriptor: ModelDescriptor
    pipeline: Any
    family: FamilyAdapter
    hash: str
    registry: Registry
    concepts: list[ModelConcept] = field(default_factory=list)

    def __repr__(self) -> str:
        family = self.family
        millions = sum(p.numel() for p in family.unet.parameters()) / 1e6
        return (
            f"<LoadedModel {self.id!r}: {self.descriptor.family}, UNet of {millions:.3g} million "
            f"parameters, {family.dtype} on {family.device}, hash {self.hash[:16]}>"
        )

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
        own: Any = known.kind if known and known.kind in get_args(Kind) else "object"
        aliases = tuple(name for name in names if normalised(name) != normalised(text))
        found = Concept(text, kind or own, aliases)
        self.family.check_prompt(found.text)
        return found


def load_model(
    name: str = "icons",
    registry: Registry | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype = torch.float32,
    truncate: bool = False,
) -> LoadedModel:
    """Load `name`: a registered model, a diffusers folder, a .safetensors file, or a hub id.

    Hub ids and registered models on the hub take a revision: "name@revision". The safety checker
    is not loaded: its black images would look like success. Only safetensors are read, and no code
    from a model's repository is run.

    Args:
        registry: what is registered; None loads what is installed.
        device: where its parts go; "auto" is a CUDA GPU where there is one, else the CPU.
        dtype: of all its weights; half precision reads fp16 files where there are some.
        truncate: cut prompts that are longer than the tokenizer's limit, in place of refusing.

    Raises:
        ConfigError: no such device here.
        ModelError: it can't be found or read, or its family is unknown.
        UnknownNameError: it is neither registered, a folder, a file, nor shaped like a hub id.
    """
    place = choose_device(device) if isinstance(device, str) else device
    registry = registry or Registry()
    try:
        descriptor, source = resolve_source(name, registry)
    except PermissionError as error:
        raise ModelError(why_unreadable(Path(name), error)) from error
    with quiet(), reading_errors(name):
        pipeline = _read(name, source, registry, dtype).to(place)
    freeze(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    model = wrap_pipeline(pipeline, name, descriptor, registry)
    model.family.truncate = truncate
    return model


def _read(name: str, source: str, registry: Registry, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of a folder, a .safetensors file or a hub id, on the CPU."""
    folder = path = Path(source)
    if path.is_file():
        from erasekit.models.single_file import read_single_file

        return read_single_file(name, path, registry, dtype)
    if not path.is_dir():
        from erasekit.models.hub import fetch_folder

        folder = fetch_folder(name, source, registry, dtype)
    with reading_errors(name, folder):
        return read_folder(name, folder, registry, dtype)


def wrap_pipeline(
    pipeline: Any,
    id: str = "in memory",
    descriptor: ModelDescriptor | None = None,
    registry: Registry | None = None,
) -> LoadedModel:
    """A `LoadedModel` of a pipeline that is in memory already, of which nothing is changed.

    Raises:
        ModelError: its family is unknown, its adapter can't work on it, or its weights are not
            plain (`check_plain`).
    """
    check_plain(pipeline)
    descriptor = descriptor or plain_descriptor(id)
    registry = registry or Registry()
    known, family = adapter_for(pipeline, registry, descriptor.family)
    concepts: list[ModelConcept] = []
    if descriptor.concepts:
        concepts = Descriptor("concepts", "", descriptor.concepts).load()()
    if descriptor == plain_descriptor(descriptor.name):
        descriptor = replace(
            descriptor,
            guidance_scale=known.guidance_scale,
            num_inference_steps=known.num_inference_steps,
            defaults=known.defaults,
        )
    descriptor = replace(descriptor, family=known.name)
    found = hash_pipeline(pipeline)
    return LoadedModel(id, descriptor, pipeline, family, found, registry, concepts)


def hash_pipeline(pipeline: Any) -> str:
    """Hash of a pipeline's text encoders, UNet (`hash_weights`) and applied inference parts."""
    parts = (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None), pipeline.unet)
    found = hash_weights([part for part in parts if part is not None])
    for edit in carried_edits(pipeline.unet):
        if edit.inference:
            found = hashlib.sha256(f"{found}|{edit.inference}".encode()).hexdigest()
    return found


@torch.no_grad()
def hash_weights(modules: Iterable[nn.Module]) -> str:
    """SHA-256 over names, shapes and values of all parameters, 64 hex digits.

    Values are rounded to fp16 first, so that the fp32 and fp16 files of one model agree. Names of
    text encoders are taken without the "text_model." that older versions of transformers put
    before them.
    """
    digest = hashlib.sha256()
    for module in modules:
        for full_name, tensor in sorted(module.state_dict().items()):
            name = full_name.removeprefix("text_model.")
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            values = tensor.detach().to("cpu")
            if values.is_floating_point():
                values = values.to(torch.float16)
            digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a CUDA GPU where there is one, else the CPU.

    "cuda:1" is the second GPU, and so on; of several processes, each takes the GPU of its number
    on this machine.

    Raises:
        ConfigError: no such device here.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (":" in name and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"Unknown device {name!r}; use {', '.join(DEVICES)} or cuda:N.")
    cuda = torch.cuda.is_available()
    if kind == "auto":
        kind = "cuda" if cuda else "cpu"
    if (kind == "cuda" and not cuda) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise ConfigError(f"PyTorch finds no {name!r} device here; use --device cpu.")
    if kind != "cuda":
        return torch.device(kind)
    place = int(number or os.environ.get("LOCAL_RANK") or 0)
    if place >= torch.cuda.device_count():
        raise ConfigError(
            f"There are {torch.cuda.device_count()} GPUs, so no number {place}; start one process "
            "for each GPU, or use --device cpu."
        )
    return torch.device(kind, place)

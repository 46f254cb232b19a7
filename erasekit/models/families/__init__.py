"""Families of models: what each does its own way, behind one interface, and which a model is of."""

from __future__ import annotations

import re
from typing import Any

from erasekit.errors import ModelError
from erasekit.models.families.base import FamilyAdapter
from erasekit.models.families.clip import ClipFamily
from erasekit.plugin.descriptors import FamilyDescriptor
from erasekit.plugin.registry import Registry

__all__ = ["ClipFamily", "FamilyAdapter", "adapter_for", "families_of"]

_TRANSFORMER = "its transformer predicts no noise of the kind the objectives are defined on"
_PICTURE = "it takes a picture beside the prompt, so there is no plain text-to-image model to edit"
_REASONS = {
    "StableDiffusion3|Flux": _TRANSFORMER,
    "Inpaint|Img2Img|Pix2Pix|Upscale|Depth2Img|ImageVariation|ControlNet": _PICTURE,
}
"""Why erasekit itself has no adapter, by a pattern in the pipeline's class name."""


def families_of(pipeline_class: str, registry: Registry) -> list[FamilyDescriptor]:
    """The registered families that a pipeline of this class may belong to.

    Raises:
        ModelError: there is none.
    """
    families = registry.families().values()
    if found := [family for family in families if pipeline_class in family.pipelines]:
        return found
    reason = next(
        (f": {why}" for name, why in _REASONS.items() if re.search(name, pipeline_class)), ""
    )
    known = "; ".join(f"{family.name} ({family.summary})" for family in families)
    raise ModelError(
        f"A {pipeline_class} is of no family that erasekit works on{reason}. Known: {known}. "
        "A plugin adds one with the hook erasekit_register_families."
    )


def adapter_for(
    pipeline: Any, registry: Registry, family: str = ""
) -> tuple[FamilyDescriptor, FamilyAdapter]:
    """The family of `pipeline`, and its adapter; `family` names it where it is known.

    Raises:
        ModelError: no family's adapter works on it; says why.
        UnknownNameError: no such family.
    """
    if family:
        candidates = [registry.family(family)]
    else:
        shared = families_of(type(pipeline).__name__, registry)
        candidates = [f for f in shared if f.load().recognises(pipeline)] or shared
    reasons = []
    for descriptor in candidates:
        adapter: type[FamilyAdapter] = descriptor.load()
        reason = adapter.refusal(pipeline)
        if reason is None:
            return descriptor, adapter(pipeline)
        reasons.append(f"not as {descriptor.name}, for {reason}")
    raise ModelError(
        f"This {type(pipeline).__name__} can't be worked on, {'; '.join(reasons)}. "
        "A plugin adds a family with the hook erasekit_register_families."
    )

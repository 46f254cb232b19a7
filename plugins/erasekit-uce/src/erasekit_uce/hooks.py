"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl

ICONS = {"tokens": "onward", "num_concepts": 100, "ridge": 0.01, "preserve_scale": 0.05}


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "uce",
            "map concepts to their guides in keys and values of cross-attention, in closed form",
            "erasekit_uce.uce:UnifiedConceptEditing",
            "Gandikota et al., Unified Concept Editing in Diffusion Models, WACV 2024",
            defaults={"icons": ICONS},
        ),
    ]

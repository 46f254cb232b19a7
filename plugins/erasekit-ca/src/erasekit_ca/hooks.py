"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl

KUMARI = "Kumari et al., Ablating Concepts in Text-to-Image Diffusion Models, ICCV 2023"

ICONS = {
    "steps": 150,
    "learning_rate": 3e-4,
    "batch_size": 2,
    "keep_weight": 1.0,
    "images": 32,
    "sampling_steps": 8,
    "sampling_guidance": 3.0,
}


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "ca",
            "draw an anchor concept in place of the erased one (--set anchor=...)",
            "erasekit_ca.method:ConceptAblation",
            KUMARI,
            defaults={"icons": ICONS},
        ),
    ]

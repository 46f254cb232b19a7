"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl

ICONS = {"tokens": "onward", "num_concepts": 100, "ridge": 0.01, "preserve_scale": 0.05}


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "rece",
            "UCE, then again and again what would bring the concept back, all in closed form",
            "erasekit_rece.rece:ReliableEfficientErasure",
            "Gong et al., Reliable and Efficient Concept Erasure of Text-to-Image Diffusion "
            "Models, ECCV 2024",
            defaults={"icons": ICONS},
        ),
    ]

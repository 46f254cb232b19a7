"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl

ICONS = {
    "steps": 100,
    "learning_rate": 3e-3,
    "batch_size": 4,
    "prompts": "{}",
    "images": 8,
    "sampling_steps": 8,
    "sampling_guidance": 3.0,
}


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "mace",
            "refine words around a concept in closed form, turn attention away from it, and fuse",
            "erasekit_mace.method:MassConceptErasure",
            "Lu et al., MACE: Mass Concept Erasure in Diffusion Models, CVPR 2024",
            defaults={"icons": ICONS},
        ),
    ]

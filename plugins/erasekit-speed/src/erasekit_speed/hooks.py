"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl

ICONS = {
    "tokens": "onward",
    "num_concepts": 200,
    "threshold": 0.01,
    "ridge": 0.05,
    "influence_filter": False,
}


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "speed",
            "map concepts to their guides in the null space of kept concepts, in closed form",
            "erasekit_speed.speed:NullSpaceErasure",
            "Li et al., SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion "
            "Models, 2025",
            defaults={"icons": ICONS},
        ),
    ]

"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from collections.abc import Mapping

from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl

GANDIKOTA = "Gandikota et al., Erasing Concepts from Diffusion Models, ICCV 2023"

_VARIANTS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("esd", "steer away from the concept by negative guidance", {}),
    ("esd-x", "ESD on cross-attention (objects, styles)", {"scope": "xattn"}),
    ("esd-x-strict", "ESD on keys and values of cross-attention", {"scope": "xattn-kv"}),
    ("esd-u", "ESD on all but cross-attention (nudity)", {"scope": "noxattn"}),
    ("esd-self", "ESD on self-attention", {"scope": "selfattn"}),
    ("esd-all", "ESD on every parameter", {"scope": "full"}),
)


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            name,
            summary,
            "erasekit_esd.method:ESDErasure",
            GANDIKOTA,
            defaults={"*": chosen} if chosen else {},
        )
        for name, summary, chosen in _VARIANTS
    ]

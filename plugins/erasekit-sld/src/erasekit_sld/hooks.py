"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import InferenceDescriptor, MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl

REFERENCE = (
    "Schramowski et al., Safe Latent Diffusion: Mitigating Inappropriate Degeneration in "
    "Diffusion Models, CVPR 2023"
)

ICONS = {
    "bound": "at-least-1",
    "safety_scale": 1.0,
    "threshold": 0.01,
    "momentum_scale": 0.0,
    "momentum_beta": 0.0,
}


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "sld",
            "steer away from the concepts while images are drawn; no training",
            "erasekit_sld.method:SafeLatentDiffusion",
            REFERENCE,
            defaults={"icons": ICONS},
        )
    ]


@hookimpl
def erasekit_register_inference_parts() -> list[InferenceDescriptor]:
    return [
        InferenceDescriptor(
            "sld",
            "safe latent guidance: a third term of guidance, with momentum",
            "erasekit_sld.guidance:SafeLatentGuidance",
            REFERENCE,
        )
    ]

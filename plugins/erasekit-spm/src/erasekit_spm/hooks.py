"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import InferenceDescriptor, MethodDescriptor, StrategyDescriptor
from erasekit.plugin.hookspecs import hookimpl

REFERENCE = (
    "Lyu et al., One-Dimensional Adapter to Rule Them All: Concepts, Diffusion Models and "
    "Erasing Applications, CVPR 2024"
)


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "spm",
            "train one-dimensional adapters that open as far as a prompt is like the concept",
            "erasekit_spm.method:SemiPermeableMembrane",
            REFERENCE,
            {"strategy": "spm-anchor"},
        )
    ]


@hookimpl
def erasekit_register_strategies() -> list[StrategyDescriptor]:
    return [
        StrategyDescriptor(
            "spm-anchor",
            "latent anchoring: keep words of R, the likelier the less they are like the concept",
            "erasekit_spm.anchoring:LatentAnchoring",
            REFERENCE,
        )
    ]


@hookimpl
def erasekit_register_inference_parts() -> list[InferenceDescriptor]:
    return [
        InferenceDescriptor(
            "spm",
            "one-dimensional adapters with facilitated transport",
            "erasekit_spm.membrane:Membranes",
            REFERENCE,
        )
    ]

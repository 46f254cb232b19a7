"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import MethodDescriptor, StrategyDescriptor
from erasekit.plugin.hookspecs import hookimpl

BUI = (
    "Bui et al., Fantastic Targets for Concept Erasure in Diffusion Models and Where To Find Them, "
    "ICLR 2025"
)


@hookimpl
def erasekit_register_strategies() -> list[StrategyDescriptor]:
    return [
        StrategyDescriptor(
            "age-mixture",
            "keep an adversarial mixture of words of R; method age maps the erased concepts to it",
            "erasekit_age.mixture:MixturePreservation",
            BUI,
        ),
    ]


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "age",
            "map the erased concept to an adversarial mixture of words, and keep that",
            "erasekit_age.method:AdaptiveGuidedErasure",
            BUI,
            {"strategy": "age-mixture"},
        ),
    ]

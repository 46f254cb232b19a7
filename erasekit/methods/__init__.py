"""Erasure methods and preservation strategies. Registers the built-in ones, without torch."""

from __future__ import annotations

from erasekit.plugin.descriptors import MethodDescriptor, StrategyDescriptor
from erasekit.plugin.hookspecs import hookimpl

BUI = (
    "Bui et al., Erasing Undesirable Concepts in Diffusion Models with Adversarial "
    "Preservation, NeurIPS 2024"
)
GRADIENT = "erasekit.methods.gradient:GradientErasure"

_PUBLISHED = (
    ("neutral", "keep the neutral concept (naive)", "naive:NeutralPreservation"),
    ("l2", "keep the weights near where they were", "naive:WeightPreservation"),
    ("pgd", "keep an adversarial embedding, found by gradient steps", "pgd:PGDPreservation"),
    (
        "gumbel",
        "keep adversarial words of R, found by ascent on a distribution",
        "gumbel:GumbelPreservation",
    ),
)
_OURS = (
    ("argmax", "keep the words of R harmed most, found by scoring", "argmax:ArgmaxPreservation"),
    ("none", "control: erase alone, keep nothing", "controls:NoPreservation"),
    ("random", "control: keep words of R at random", "controls:RandomPreservation"),
    ("nearest", "control: keep the nearest words of R", "controls:NearestPreservation"),
)
_STRATEGIES = [*((*one, BUI) for one in _PUBLISHED), *((*one, "") for one in _OURS)]


@hookimpl
def erasekit_register_strategies() -> list[StrategyDescriptor]:
    return [
        StrategyDescriptor(name, summary, f"erasekit.methods.preservation.{target}", reference)
        for name, summary, target, reference in _STRATEGIES
    ]


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(name, summary, GRADIENT, reference, {"strategy": name})
        for name, summary, _, reference in _STRATEGIES
    ]

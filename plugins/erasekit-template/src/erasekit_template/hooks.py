"""What this plugin registers. Imports no torch: erasekit reads it for every command."""

from __future__ import annotations

from erasekit.plugin.descriptors import (
    AttackDescriptor,
    MethodDescriptor,
    ScorerDescriptor,
    StrategyDescriptor,
    SuiteDescriptor,
)
from erasekit.plugin.hookspecs import hookimpl


@hookimpl
def erasekit_register_methods() -> list[MethodDescriptor]:
    return [
        MethodDescriptor(
            "template-closed-form",
            "solve for the keys and values of cross-attention, in one step",
            "erasekit_template.closed_form:ClosedFormErasure",
        ),
        MethodDescriptor(
            "template-hardest",
            "the built-in erase term, keeping the hardest of a sample of words",
            "erasekit.methods.gradient:GradientErasure",
            options={"strategy": "template-hardest"},
        ),
    ]


@hookimpl
def erasekit_register_strategies() -> list[StrategyDescriptor]:
    return [
        StrategyDescriptor(
            "template-hardest",
            "keep the most harmed of a few words of R, drawn anew in each step",
            "erasekit_template.hardest:HardestOfSample",
        ),
    ]


@hookimpl
def erasekit_register_attacks() -> list[AttackDescriptor]:
    return [
        AttackDescriptor(
            "template-typos",
            "the concept's name with a typing error",
            "erasekit_template.typos:Typos",
        ),
    ]


@hookimpl
def erasekit_register_scorers() -> list[ScorerDescriptor]:
    return [
        ScorerDescriptor(
            "template-colour",
            "how near an image's colour is to the colour word of its prompt",
            "erasekit_template.colour:ColourScorer",
        ),
    ]


@hookimpl
def erasekit_register_suites() -> list[SuiteDescriptor]:
    return [
        SuiteDescriptor(
            "template-colours",
            "does erasing a red thing harm other red things, or other colours?",
            "erasekit_template.suite:colours",
        ),
    ]

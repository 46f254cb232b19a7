"""The method: the built-in erase term on adapters, with latent anchoring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from erasekit.diffusion.inference_parts import InferenceRecord
from erasekit.diffusion.scope import ParameterScope
from erasekit.methods.base import ErasureContext
from erasekit.methods.gradient import GradientConfig, GradientErasure
from erasekit_spm.adapters import (
    DOWN,
    UP,
    Strengths,
    adapted_layers,
    adapters_installed,
    new_factors,
)
from erasekit_spm.transport import Rule


class SPMConfig(GradientConfig):
    """The erase term's hyperparameters, and how the adapters are opened afterwards."""

    transport: Rule = Field(
        "max",
        description="strength for a prompt: the larger of cosine and token overlap, their product, "
        "or none: always 1",
    )


class SemiPermeableMembrane(GradientErasure):
    """L_era + lambda L_anc over the adapters alone; the UNet's own weights stay.

    In training a row of an erased concept passes its own concept's adapters, and every other row
    all of them, at strength 1. So the adapters of several concepts are anchored together, as they
    will be used.
    """

    Config = SPMConfig
    config: SPMConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "scope": r"re:attentions\.",
        "learning_rate": 1e-3,
    }

    @contextmanager
    def trained_parameters(
        self, context: ErasureContext, scope: ParameterScope
    ) -> Iterator[dict[str, nn.Parameter]]:
        unet, count = context.model.unet, len(context.erasure.erased)
        layers = adapted_layers(unet, scope)
        generator = context.generator(0, "adapters")
        self.concepts = [concept.text for concept in context.erasure.erased]
        parameters: dict[str, nn.Parameter] = {}
        factors = {}
        for name, layer in layers.items():
            own = _Adapter(*new_factors(layer, count, generator))
            layer.add_module("spm", own)
            parameters.update({name + DOWN: own.down, name + UP: own.up})
            factors[name] = own.factors
        try:
            with adapters_installed(unet, factors, _own_or_all(context)):
                yield parameters
        finally:
            for layer in layers.values():
                del layer._modules["spm"]

    def inference(self) -> InferenceRecord:
        settings = {"concepts": self.concepts, "transport": self.config.transport}
        return InferenceRecord("spm", settings)


class _Adapter(nn.Module):
    """v and u of one layer, where the Trainer finds them and may put others for a while."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.down, self.up


def _own_or_all(context: ErasureContext) -> Strengths:
    """Strengths [B, E] in training: 1 for a row's own concept, or for all where it has none."""

    def opened(prompt_embeds: Tensor) -> Tensor:
        rows = prompt_embeds.detach()
        concepts = context.erased_embeds[:, : rows.shape[1]].to(rows)
        own = torch.stack([(rows == c).flatten(1).all(dim=1) for c in concepts], dim=1)
        return torch.where(own.any(dim=1, keepdim=True), own, torch.ones_like(own)).to(rows.dtype)

    return opened

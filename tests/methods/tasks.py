"""A prepared method on the tiny model, with weights that have moved, for tests of objectives."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.diffusion.loading import LoadedModel
from erasekit.diffusion.scope import ParameterScope
from erasekit.methods.base import ErasureContext
from erasekit.methods.gradient import GradientErasure
from erasekit.plugin.registry import Registry
from erasekit.testing import tiny_model
from erasekit.training.settings import build_method, resolve_settings


@dataclass
class Pass:
    """One UNet pass, as it was asked for."""

    latents: Tensor
    timesteps: Tensor
    prompt_embeds: Tensor
    differentiable: bool


@dataclass
class Task:
    """A method after `prepare`, beside copies of the frozen and the trained UNet."""

    model: LoadedModel
    method: GradientErasure
    context: ErasureContext
    frozen: Any
    passes: list[Pass] = field(default_factory=list)

    @property
    def strategy(self) -> Any:
        return self.method.strategy

    def embed(self, *prompts: str) -> Tensor:
        """tau of prompts by plain diffusers."""
        encode = self.model.pipeline.encode_prompt
        return torch.cat([encode(prompt, "cpu", 1, False)[0] for prompt in prompts])

    def frozen_noise(self, latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        """eps_theta of the copy."""
        return self.frozen(latents, timesteps, encoder_hidden_states=embeds).sample

    def trained_noise(self, latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        """eps_theta' of the model itself, without erasekit's adapter."""
        return self.model.unet(latents, timesteps, encoder_hidden_states=embeds).sample

    def move(self, size: float = 0.05, seed: int = 7) -> None:
        """Make theta' something else than theta."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.context.parameters.values():
            parameter.data += size * torch.randn(parameter.shape, generator=generator)


def prepared(
    name: str,
    *concepts: str,
    neutral: str = "",
    seed: int = 0,
    model: LoadedModel | None = None,
    scope: str = "xattn",
    move: float = 0.05,
    **settings: Any,
) -> Task:
    """The method `name`, prepared to erase `concepts`; its passes are written down."""
    registry, model = Registry(), model or tiny_model()
    descriptor = registry.method(name)
    plan = resolve_settings(descriptor, registry, model.descriptor, {}, settings)
    _, method = build_method(descriptor, registry, plan)
    assert isinstance(method, GradientErasure)
    frozen = copy.deepcopy(model.unet)
    parameters = ParameterScope(scope).select(model.unet)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    erasure = Erasure.of(*(concepts or ("garbage truck",)), neutral=neutral)
    context = ErasureContext(model, erasure, registry, seed, parameters)
    _ = context.frozen
    method.prepare(context)
    task = Task(model, method, context, frozen)
    if move:
        task.move(move)
    predict = model.family.predict_noise

    def watched(latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        noise_pred = predict(latents, timesteps, prompt_embeds)
        asked = (latents.detach().clone(), timesteps.clone(), prompt_embeds.detach().clone())
        task.passes.append(Pass(*asked, noise_pred.requires_grad))
        return noise_pred

    model.family.predict_noise = watched  # type: ignore[method-assign]
    return task


def clean_latents(model: LoadedModel, z: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
    """Predicted z_0 = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, dim=0)[timesteps].to(z)[:, None, None, None]
    return (z - (1 - abar).sqrt() * eps) / abar.sqrt()

"""A prepared method whose weights have moved, beside the frozen ones: for tests of objectives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.methods.base import ErasureContext
from erasekit.models.loading import LoadedModel
from erasekit.testing.testers import registry_with
from erasekit.testing.tiny import tiny_model
from erasekit.training.plan import plan_erasure


@dataclass
class UNetPass:
    """One call of `predict_noise`: its arguments, and whether its result carries a graph."""

    latents: Tensor
    timesteps: Tensor
    prompt_embeds: Tensor
    differentiable: bool


@dataclass
class Prepared:
    """A method after `prepare`, beside copies of the frozen and the trained UNet.

    Attributes:
        model: the model; its UNet is theta', which has been moved away from theta.
        method: the method; call its `training_step`.
        context: what it was given.
        frozen: a copy of the UNet with theta.
        passes: the calls of `predict_noise` since it was prepared.
    """

    model: LoadedModel
    method: Any
    context: ErasureContext
    frozen: Any
    passes: list[UNetPass] = field(default_factory=list)

    @property
    def strategy(self) -> Any:
        """The preservation strategy of a method that has one."""
        return self.method.strategy

    @property
    def outer_pass(self) -> UNetPass:
        """The last pass that carries a graph: the one a step back-propagates."""
        return [p for p in self.passes if p.differentiable][-1]

    def embed(self, *prompts: str) -> Tensor:
        """tau of prompts by plain diffusers, [P, L, D]."""
        encode = self.model.pipeline.encode_prompt
        return torch.cat([encode(prompt, "cpu", 1, False)[0] for prompt in prompts])

    def frozen_noise(self, latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        """eps_theta of the copy, without erasekit's adapter."""
        noise_pred: Tensor = self.frozen(latents, timesteps, encoder_hidden_states=embeds).sample
        return noise_pred

    def trained_noise(self, latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        """eps_theta' of the model itself, without erasekit's adapter."""
        unet = self.model.unet
        noise_pred: Tensor = unet(latents, timesteps, encoder_hidden_states=embeds).sample
        return noise_pred

    def move(self, size: float = 0.05, seed: int = 7) -> None:
        """Make theta' something else than theta."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.context.parameters.values():
            parameter.data += size * torch.randn(parameter.shape, generator=generator)

    def assert_gradient(self, loss: Tensor, expected: Tensor) -> None:
        """Both losses have the same value and the same gradient in every parameter in scope."""
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0.0)
        values = list(self.context.parameters.values())
        found = torch.autograd.grad(loss, values, retain_graph=True)
        wanted = torch.autograd.grad(expected, values)
        for name, a, b in zip(self.context.parameters, found, wanted, strict=True):
            assert bool(b.any()), f"nothing flows to {name}"
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-6, msg=name)


def prepared(
    name: str,
    *concepts: str,
    neutral: str = "",
    keep: Sequence[str] = (),
    seed: int = 0,
    model: LoadedModel | None = None,
    scope: str = "xattn",
    move: float = 0.05,
    plugins: Sequence[object] = (),
    **settings: Any,
) -> Prepared:
    """The method `name`, prepared to erase `concepts`; its passes are written down.

    Args:
        name: registered name.
        concepts: what is erased; "garbage truck" where none is named.
        neutral: as of `Erasure`.
        keep: as of `Erasure`.
        seed: of the run.
        model: None takes the tiny model.
        scope: parameters that may change.
        move: how far theta' is moved away from theta; 0 leaves it.
        plugins: modules with hooks that need not be installed.
        settings: hyperparameters.
    """
    model, settings = model or tiny_model(), {**settings, "scope": scope}
    erasure = Erasure.of(*(concepts or ("garbage truck",)), neutral=neutral, keep=keep)
    registry = registry_with(*plugins)
    plan = plan_erasure(model, erasure, name, settings, registry=registry, seed=seed)
    method, context, frozen = plan.build(), plan.context(), copy.deepcopy(model.unet)
    context.parameters = plan.parameters()
    for parameter in context.parameters.values():
        parameter.requires_grad_(True)
    _ = context.frozen
    method.prepare(context)
    task = Prepared(model, method, context, frozen)
    if move:
        task.move(move)
    predict = model.family.predict_noise

    def watched(latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        noise_pred = predict(latents, timesteps, prompt_embeds)
        asked = (latents.detach().clone(), timesteps.clone(), prompt_embeds.detach().clone())
        task.passes.append(UNetPass(*asked, noise_pred.requires_grad))
        return noise_pred

    model.family.predict_noise = watched  # type: ignore[method-assign]
    return task

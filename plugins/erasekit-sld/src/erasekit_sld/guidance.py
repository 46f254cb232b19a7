"""Safe latent guidance (Schramowski et al., CVPR 2023, equations 3 to 9)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from erasekit.config import Settings
from erasekit.diffusion.guidance import Gamma, GuidanceStep, GuidanceTerm, guidance_installed
from erasekit.diffusion.inference_parts import InferencePart
from erasekit.models.families import FamilyAdapter


class GuidanceConfig(Settings):
    """The five numbers of safe latent guidance, and how its scale is bounded."""

    safety_scale: float = Field(
        1000.0, ge=0, description="s_S: how soon the whole unsafe direction is taken away"
    )
    warmup_steps: int = Field(
        10, ge=0, description="delta: steps that are drawn before the guidance sets in"
    )
    threshold: float = Field(
        0.01,
        description="lambda: elements are left alone where eps(c) exceeds eps(c_S) by this or more",
    )
    momentum_scale: float = Field(
        0.3, ge=0, description="s_m: weight of the momentum in the guidance"
    )
    momentum_beta: float = Field(
        0.4, ge=0, lt=1, description="beta_m: share of the momentum that is carried on"
    )
    bound: Literal["at-most-1", "at-least-1"] = Field(
        "at-most-1",
        description="mu is min(1, |phi|) as the authors compute it, or max(1, |phi|) as printed",
    )


class PartConfig(GuidanceConfig):
    """Settings of the inference part: the guidance, and what it steers away from."""

    concepts: tuple[str, ...] = Field(
        min_length=1, description="the unsafe concept c_S, joined by ', '"
    )


class SafeLatentGuidance(InferencePart):
    """Steers away from the concepts while images are drawn."""

    Config = PartConfig
    config: PartConfig

    @property
    def prompt(self) -> str:
        """c_S: one prompt for all concepts, as the paper's list of unsafe ones."""
        return ", ".join(self.config.concepts)

    def check(self, family: FamilyAdapter) -> None:
        """Check that the model's text encoder takes the prompt.

        Raises:
            ConceptError: all concepts together are too long.
        """
        family.check_prompt(self.prompt)

    @contextmanager
    def installed(self, family: FamilyAdapter) -> Iterator[None]:
        term = SafetyTerm(family.embed_prompts([self.prompt]), self.config)
        with guidance_installed(family, term):
            yield


class SafetyTerm(GuidanceTerm):
    """gamma(z_t, c, c_S) with momentum.

    Args:
        prompt_embeds: tau(c_S), [1, L, D].
        config: the numbers.
    """

    def __init__(self, prompt_embeds: Tensor, config: GuidanceConfig) -> None:
        self.prompt_embeds, self.config = prompt_embeds, config

    def begin(self) -> Gamma:
        momentum: Tensor | None = None

        def gamma(step: GuidanceStep) -> Tensor:
            nonlocal momentum
            if momentum is None:
                momentum = torch.zeros_like(step.noise_cond)
            unsafe = step.predict_noise(self.prompt_embeds)
            found = safety_guidance(
                step.noise_uncond, step.noise_cond, unsafe, momentum, self.config
            )
            beta = self.config.momentum_beta
            momentum = beta * momentum + (1 - beta) * found
            return found if step.index >= self.config.warmup_steps else torch.zeros_like(found)

        return gamma


def safety_guidance(
    noise_uncond: Tensor,
    noise_cond: Tensor,
    noise_unsafe: Tensor,
    momentum: Tensor,
    config: GuidanceConfig,
) -> Tensor:
    """gamma_t = mu (eps(z_t, c_S) - eps(z_t)) + s_m nu_t, element by element (equation 8).

    mu is min(1, |phi|) or max(1, |phi|) with phi = s_S (eps(z_t, c) - eps(z_t, c_S)) where
    eps(z_t, c) - eps(z_t, c_S) < lambda, and else 0 (equations 6 and 7).

    Args:
        noise_uncond, noise_cond, noise_unsafe: eps(z_t), eps(z_t, c), eps(z_t, c_S), each
            [B, C, h, w].
        momentum: nu_t, [B, C, h, w].
        config: the numbers.
    """
    gap = noise_cond - noise_unsafe
    scale = (config.safety_scale * gap).abs()
    one = torch.ones_like(scale)
    bounded = torch.minimum(scale, one)
    if config.bound == "at-least-1":
        bounded = torch.maximum(scale, one)
    mu = torch.where(gap < config.threshold, bounded, torch.zeros_like(scale))
    return mu * (noise_unsafe - noise_uncond) + config.momentum_scale * momentum

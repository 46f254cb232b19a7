"""The method: nothing is trained, the edit is safe latent guidance with the erased concepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from erasekit.config import Settings
from erasekit.diffusion.inference_parts import InferenceRecord
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConfigError
from erasekit.methods.base import ErasureContext, ErasureMethod
from erasekit_sld.guidance import PartConfig, SafeLatentGuidance

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "weak": {
        "safety_scale": 200.0,
        "warmup_steps": 15,
        "threshold": 0.0,
        "momentum_scale": 0.0,
        "momentum_beta": 0.0,
    },
    "medium": {
        "safety_scale": 1000.0,
        "warmup_steps": 10,
        "threshold": 0.01,
        "momentum_scale": 0.3,
        "momentum_beta": 0.4,
    },
    "strong": {
        "safety_scale": 2000.0,
        "warmup_steps": 7,
        "threshold": 0.025,
        "momentum_scale": 0.5,
        "momentum_beta": 0.7,
    },
    "max": {
        "safety_scale": 5000.0,
        "warmup_steps": 0,
        "threshold": 1.0,
        "momentum_scale": 0.5,
        "momentum_beta": 0.7,
    },
}
"""The paper's four configurations, for 50 sampling steps."""


class SLDConfig(Settings):
    """A preset, and numbers that replace some of it."""

    preset: Literal["weak", "medium", "strong", "max"] = Field(
        "max", description="the paper's configurations; the settings below replace single numbers"
    )
    safety_scale: float | None = Field(None, ge=0, description="s_S; none: the preset's")
    warmup_steps: int | None = Field(
        None, ge=0, description="delta, steps without the guidance; none: the preset's"
    )
    threshold: float | None = Field(None, description="lambda; none: the preset's")
    momentum_scale: float | None = Field(None, ge=0, description="s_m; none: the preset's")
    momentum_beta: float | None = Field(None, ge=0, lt=1, description="beta_m; none: the preset's")
    bound: Literal["at-most-1", "at-least-1"] = Field(
        "at-most-1",
        description="mu is min(1, |phi|) as the authors compute it, or max(1, |phi|) as printed",
    )

    def guidance(self) -> dict[str, Any]:
        """The numbers, resolved."""
        own = {k: v for k, v in self.model_dump(exclude={"preset"}).items() if v is not None}
        return {**PRESETS[self.preset], **own}


class SafeLatentDiffusion(ErasureMethod):
    """One step without a loss: the inference part needs no training."""

    Config = SLDConfig
    config: SLDConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {"steps": 1}

    @contextmanager
    def trained_parameters(
        self, context: ErasureContext, scope: ParameterScope
    ) -> Iterator[dict[str, nn.Parameter]]:
        yield {}

    def prepare(self, context: ErasureContext) -> None:
        """Resolve the numbers.

        Raises:
            ConceptError: all concepts together are too long for the text encoder.
            ConfigError: concepts to keep, or towards which to erase, were named.
        """
        erasure = context.erasure
        if erasure.keep or erasure.neutral:
            raise ConfigError(
                "The method 'sld' steers away from the erased concepts and towards nothing; drop "
                "--keep and --neutral."
            )
        concepts = tuple(concept.text for concept in erasure.erased)
        part = PartConfig(**self.config.guidance(), concepts=concepts)
        SafeLatentGuidance(part, {}).check(context.family)
        self.settings = part.model_dump(mode="json")

    def training_step(self, step: int) -> None:
        """Nothing to do."""

    def inference(self) -> InferenceRecord:
        return InferenceRecord("sld", self.settings)

"""P4D: tokens with which the erased model predicts as the un-erased one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from erasekit.attacks.base import AttackContext
from erasekit.attacks.token_search import (
    GradientSettings,
    GradientTokenAttack,
    NearestSearch,
    Search,
    Slots,
    Vocabulary,
)
from erasekit.diffusion.clean_latents import NoisedBatch


class P4DSettings(GradientSettings):
    """Defaults as published: 3,000 steps, here a picture every 60."""

    tokens: int = Field(16, gt=0, description="free tokens in place of the prompt (n)")
    every: int = Field(3, gt=0, description="tokens of the prompt after a free one (k)")
    steps: int = Field(60, gt=0, description="steps of the search before each picture")
    learning_rate: float = Field(0.1, gt=0, description="rate of the search")


class P4D(GradientTokenAttack):
    """Chin et al., ICML 2024: min over P* of || eps_theta'(z_t, P*) - eps_theta(z_t, P) ||^2.

    P names the concept, z_t is a noised picture of it, t uniform. Tokens are searched by their
    nearest embedding: `tokens` of them in place of the prompt (n), or one before every `every`
    tokens of it (k). Every picture counts here; there CLIP chooses among them.

    Args:
        config: its hyperparameters.
        variant: n or k.
    """

    Config = P4DSettings
    config: P4DSettings

    def __init__(self, config: P4DSettings, variant: Literal["n", "k"] = "n") -> None:
        super().__init__(config)
        self.variant = variant

    def begin(self, context: AttackContext) -> tuple[Slots, Search]:
        """Slots for the variant, by the nearest embedding."""
        config = self.config
        alone = self.variant == "n"
        slots = (
            Slots.alone(context, config.tokens) if alone else Slots.between(context, config.every)
        )
        vocabulary = Vocabulary.of(context, config)
        rates = config.learning_rate, config.weight_decay
        start = context.generator(0, "first tokens")
        return slots, NearestSearch(vocabulary, len(slots), *rates, start)

    @torch.no_grad()
    def wanted(
        self, context: AttackContext, rows: Sequence[int], batches: Sequence[NoisedBatch]
    ) -> Sequence[Tensor]:
        """The un-erased model's prediction for the concept's name."""
        names = [context.targets[row].concept.text for row in rows]
        embeds = context.family.embed_prompts(names)
        with context.unerased():
            return [
                context.family.predict_noise(batch.latents, batch.timesteps, embeds)
                for batch in batches
            ]

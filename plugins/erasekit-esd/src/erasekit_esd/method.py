"""Erased Stable Diffusion: what is learnt is the frozen model's own negative guidance."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from erasekit.concepts import normalised
from erasekit.config import one_each
from erasekit.diffusion.trajectories import LatentBatch
from erasekit.errors import ConfigError
from erasekit.methods.base import ErasureContext, StepOutput
from erasekit.methods.sampled import SampledConfig, SampledErasure


class ESDConfig(SampledConfig):
    """`SampledConfig` says where z_t come from; by default from the model being trained."""

    latents_from: Literal["frozen", "current"] = Field(
        "current",
        description="z_t sampled anew each step from the model being trained, as published, or "
        "from kept trajectories of the frozen model, which is quicker",
    )
    negative_guidance: float = Field(
        1.0, ge=0, description="eta: how far the target lies away from the erased concept"
    )
    erase_from: str = Field(
        "",
        description="erase the concept from this one alone, as 'cowboy hat' from 'cowboy'; "
        "several, separated by commas, are one for each --concept",
    )


class ESDErasure(SampledErasure):
    """eps_theta'(z_t, c) <- target, by the mean squared error, with z_t sampled for c.

        c = c_e:      target = eps(c_n) - eta (eps(c_e) - eps(c_n))
        c = c_from:   target = eps(c_from) - eta (eps(c_e) - eps(c_n))

    eps is the frozen model at the same z_t and t. The first is Gandikota et al., ICCV 2023, eq. 7;
    the second is `erase_from` of the authors' code: a prompt that is kept loses one attribute.
    """

    Config = ESDConfig
    config: ESDConfig

    def prepare(self, context: ErasureContext) -> None:
        """Embed what is trained on, and sample its trajectories where they are kept.

        Raises:
            ConfigError: `--keep` was given, or `erase_from` is not one concept for all or one
                for each, or is the erased concept itself.
            ConceptError: `erase_from` does not fit the tokenizer.
        """
        super().prepare(context)
        if context.erasure.keep:
            raise ConfigError(
                "ESD keeps nothing on purpose; drop --keep, or use --method random, nearest or "
                "gumbel."
            )
        self.trained_embeds = context.erased_embeds
        if self.config.erase_from:
            erased = [concept.text for concept in context.erasure.erased]
            sources = one_each(self.config.erase_from, len(erased), "erase_from")
            for source, concept in zip(sources, erased, strict=True):
                if normalised(source) == normalised(concept):
                    raise ConfigError(
                        f"{concept!r} can't be erased from itself; name what should be drawn "
                        "without it in erase_from, or leave that out."
                    )
            self.trained_embeds = self.family.embed_prompts(sources)
        self.source = self.concept_source(self.trained_embeds)

    def training_step(self, step: int) -> StepOutput:
        generator = self.context.generator(step, "erase")
        concepts = self.rows(step, generator)
        drawn = self.source.draw(concepts, generator)
        target = self.target(concepts, drawn)
        noise_pred = self.family.predict_noise(
            drawn.latents, drawn.timesteps, self.trained_embeds[concepts]
        )
        loss = self.mse(noise_pred, target, drawn.timesteps)
        return StepOutput(
            loss,
            {
                "erase_loss": float(loss.detach()),
                "timestep": [int(t) for t in drawn.timesteps],
            },
        )

    def target(self, concepts: Tensor, drawn: LatentBatch) -> Tensor:
        """What eps_theta'(z_t, c) is to become, [B, C, h, w].

        Args:
            concepts: which erased concept each row is of, [B].
            drawn: z_t, with the frozen predictions for c and the unconditional prompt.
        """
        neutral = drawn.unconditional_noise_pred()
        if self.context.erasure.neutral:
            embeds = self.context.neutral_embeds.expand(len(concepts), -1, -1)
            neutral = self.frozen_noise(drawn.latents, drawn.timesteps, embeds)
        erased, base = drawn.noise_pred, neutral
        if self.config.erase_from:
            embeds = self.context.erased_embeds[concepts]
            erased = self.frozen_noise(drawn.latents, drawn.timesteps, embeds)
            base = drawn.noise_pred
        return base - self.config.negative_guidance * (erased - neutral)

"""Concept ablation: what the erased concept draws becomes what an anchor concept draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from erasekit.config import Settings, one_each
from erasekit.diffusion.clean_latents import GeneratedLatents, NoisedBatch
from erasekit.errors import ConfigError
from erasekit.methods.base import ErasureContext, ErasureMethod, MemoryUse, StepOutput
from erasekit_ca.prompts import PromptPair, pair, read_templates


class AblationConfig(Settings):
    """Hyperparameters of concept ablation."""

    anchor: str = Field(
        "",
        description="the concept drawn instead, such as 'truck'; several, separated by commas, "
        "are one for each --concept; empty: what --neutral names, else the word of the model's "
        "concept space nearest to each",
    )
    objective: Literal["model", "noise"] = Field(
        "model",
        description="predict what is predicted for the anchor, or the noise in the anchor's images",
    )
    prompts: str = Field(
        "{}",
        description="templates with {} for the concept, separated by '|', or a file of prompts "
        "with {} or the anchor in each, one a line",
    )
    batch_size: int = Field(8, gt=0, description="rows of the ablation term per step")
    keep_weight: float = Field(
        1.0, ge=0, description="lambda, the weight of the diffusion loss on the anchor itself"
    )
    anchor_from: Literal["frozen", "current"] = Field(
        "frozen",
        description="whose prediction for the anchor is matched: the frozen model's, or that of "
        "the model being trained, without gradient, as published",
    )
    images: int = Field(
        200, gt=0, description="latents of anchors drawn before training in all, one each at least"
    )
    sampling_steps: int = Field(50, gt=0, description="solver steps of such an image")
    sampling_guidance: float = Field(6.0, ge=0, description="guidance while drawing them")


class ConceptAblation(ErasureMethod):
    """|| eps_theta'(z_t, c*) - target ||^2 + lambda || eps_theta'(z_t, c) - eps ||^2

    z_t is a noised image of the anchor c, eps its noise, c* the erased concept in the same prompt.
    The target is eps_theta(z_t, c), the model-based objective of Kumari et al., ICCV 2023, section
    3, or eps, their noise-based one; the second term is their regularisation. Norms are means over
    elements, and the weights w_t of timesteps are 1, as in the authors' code.
    """

    Config = AblationConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "steps": 200,
        "learning_rate": 1.6e-5,
        "scope": "xattn-kv",
    }
    config: AblationConfig

    def expected_passes(self, context: ErasureContext, steps: int) -> float:
        config, erased = self.config, len(context.erasure.erased)
        frozen = 1 if config.objective == "model" else 0
        step = config.batch_size * (3 * self._branches + frozen)
        drawn = 2 * -(-config.images // erased) * erased * config.sampling_steps
        return float(steps * step + drawn)

    def expected_memory(self, context: ErasureContext) -> MemoryUse:
        return MemoryUse(self._branches * self.config.batch_size)

    @property
    def _branches(self) -> int:
        return 2 if self.config.keep_weight else 1

    def prepare(self, context: ErasureContext) -> None:
        """Draw the anchors' images.

        Raises:
            ConfigError: another number of anchors than of concepts, one that is to be
                erased, `--keep`, or prompts that can't be read or name no concept.
            ConceptError: a prompt does not fit the tokenizer.
        """
        self.context, self.family = context, context.family
        if context.erasure.keep:
            raise ConfigError(
                "Concept ablation keeps its anchor alone; drop --keep, or use --method random, "
                "nearest or gumbel."
            )
        templates = read_templates(self.config.prompts)
        self.pairs = [
            [pair(template, anchor, concept.text) for template in templates]
            for concept, anchor in zip(context.erasure.erased, self._anchors(), strict=True)
        ]
        self.anchor_embeds = torch.stack([self._embed(p, "anchor") for p in self.pairs])
        self.target_embeds = torch.stack([self._embed(p, "target") for p in self.pairs])
        concepts = len(self.pairs)
        each = -(-self.config.images // concepts)
        context.on_status(f"drawing {each * concepts} images of the anchors")
        self.sources = [
            GeneratedLatents(
                self.family,
                embeds,
                each,
                num_inference_steps=self.config.sampling_steps,
                guidance_scale=self.config.sampling_guidance,
                seed=context.seed,
                frozen=context.frozen,
            )
            for embeds in self.anchor_embeds
        ]

    def training_step(self, step: int) -> StepOutput:
        concepts, prompts, noised = self._draw(step, "ablate")
        target = noised.noise
        if self.config.objective == "model":
            target = self._anchor_noise(noised, self.anchor_embeds[concepts, prompts])
        latents, timesteps = noised.latents, noised.timesteps
        embeds, rows = self.target_embeds[concepts, prompts], len(concepts)
        if self.config.keep_weight:
            concepts, prompts, kept = self._draw(step, "keep")
            latents = torch.cat([latents, kept.latents])
            timesteps = torch.cat([timesteps, kept.timesteps])
            embeds = torch.cat([embeds, self.anchor_embeds[concepts, prompts]])
        noise_pred = self.family.predict_noise(latents, timesteps, embeds)
        loss = erase_loss = (noise_pred[:rows] - target).square().mean()
        record = {"erase_loss": float(erase_loss.detach()), "timestep": noised.timesteps.tolist()}
        if self.config.keep_weight:
            preserve_loss = (noise_pred[rows:] - kept.noise).square().mean()
            loss = erase_loss + self.config.keep_weight * preserve_loss
            record["preserve_loss"] = float(preserve_loss.detach())
        return StepOutput(loss, record)

    def _anchors(self) -> list[str]:
        """One anchor for each erased concept: named, or its nearest word of R."""
        erasure = self.context.erasure
        text = self.config.anchor or erasure.neutral
        if not text:
            return self._nearest_words()
        anchors = one_each(text, len(erasure.erased), "anchor")
        for anchor in anchors:
            if not erasure.excludes([anchor]):
                raise ConfigError(
                    f"The anchor {anchor!r} names what is erased; choose another concept."
                )
        return anchors

    def _nearest_words(self) -> list[str]:
        """The word of R that the text encoder puts nearest to each erased concept.

        R has no erased concept and none that an evaluation holds out.
        """
        space = self.context.concept_space()
        words = [space.nearest(one[None], 1).words[0] for one in self.context.erased_features]
        self.context.on_status("anchors: " + ", ".join(words))
        return words

    def _embed(self, pairs: list[PromptPair], side: Literal["anchor", "target"]) -> Tensor:
        """tau of one side of the pairs, [P, L, D]."""
        return self.family.embed_prompts([getattr(p, side) for p in pairs])

    def _draw(self, step: int, purpose: str) -> tuple[Tensor, Tensor, NoisedBatch]:
        """Which concept and prompt each row is of, [B] each, and its noised image."""
        generator = self.context.generator(step, purpose)
        count, rows = len(self.sources), self.config.batch_size
        concepts = (torch.arange(rows) + step * rows) % count
        images = torch.randint(len(self.sources[0].latents), (rows,), generator=generator)
        drawn = [
            self.sources[int(c)].draw(image[None], generator)
            for c, image in zip(concepts, images, strict=True)
        ]
        noised = NoisedBatch(
            torch.cat([d.latents for d in drawn]),
            torch.cat([d.timesteps for d in drawn]),
            torch.cat([d.noise for d in drawn]),
        )
        return concepts, self.sources[0].prompts[images], noised

    @torch.no_grad()
    def _anchor_noise(self, noised: NoisedBatch, embeds: Tensor) -> Tensor:
        """What is predicted for the anchor, [B, C, h, w], without gradient."""
        if self.config.anchor_from == "current":
            return self.family.predict_noise(noised.latents, noised.timesteps, embeds)
        with self.context.frozen.swapped():
            return self.family.predict_noise(noised.latents, noised.timesteps, embeds)

"""Stable Diffusion XL base: two text encoders, a pooled embedding, and sizes as conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.models.families.clip import ClipFamily
from erasekit.models.families.text import (
    encoded,
    pack_pooled,
    rows_before_end,
    token_count,
    token_limit,
    unpack_pooled,
)


class StableDiffusionXL(ClipFamily):
    """Stable Diffusion XL base and its fine-tunes.

    A prompt embedding is [L + R, D]: L rows of tokens (both encoders' penultimate layers side by
    side), then the second encoder's pooled vector in R rows filled up with zeros (one row for
    SDXL: L = 77, D = 2048, pooled 1280). So mixtures, gradient steps, norms and caches of
    embeddings carry the pooled vector along and need not know of it. The filling never reaches
    the UNet, so no gradient changes it.

    Pictures are conditioned on being drawn whole, at the model's own size.
    """

    name = "sdxl"

    @classmethod
    def refusal(cls, pipeline: Any) -> str | None:
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            return "it lacks one of SDXL's two text encoders, as the refiner does"
        return super().refusal(pipeline)

    def text_encoders(self) -> list[nn.Module]:
        return [self.pipeline.text_encoder, self.pipeline.text_encoder_2]

    def _pairs(self) -> list[tuple[Any, Any]]:
        pipeline = self.pipeline
        return [
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        ]

    @property
    def max_tokens(self) -> int:
        return min(token_limit(*pair) for pair in self._pairs())

    def token_count(self, prompt: str) -> int:
        return max(token_count(self.pipeline, tokenizer, prompt) for tokenizer, _ in self._pairs())

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        first, second = (list(outputs) for outputs in self._outputs(prompts))
        pooled = torch.cat([output.text_embeds for output in second])
        tokens = torch.cat(
            [torch.cat([output.hidden_states[-2] for output in o]) for o in (first, second)],
            dim=-1,
        )
        return pack_pooled(tokens, pooled).to(self.device, self.dtype)

    def _last_rows(self, tokens: Tensor, prompts: Sequence[str]) -> Tensor:
        """As in the base; each encoder's part of the row is at its own tokenizer's place."""
        parts, start = [], 0
        for tokenizer, encoder in self._pairs():
            counts = [token_count(self.pipeline, tokenizer, prompt) for prompt in prompts]
            width = encoder.config.hidden_size
            parts.append(rows_before_end(tokens[..., start : start + width], counts))
            start += width
        return torch.cat(parts, dim=-1)

    def _outputs(self, prompts: Sequence[str]) -> list[Iterator[Any]]:
        return [
            encoded(self.pipeline, *pair, prompts, output_hidden_states=True)
            for pair in self._pairs()
        ]

    @torch.no_grad()
    def unconditional_embeds(self) -> Tensor:
        """Zeros where the model's configuration says so (`force_zeros_for_empty_prompt`)."""
        embeds = super().unconditional_embeds()
        if self.pipeline.config.get("force_zeros_for_empty_prompt", True):
            return torch.zeros_like(embeds)
        return embeds

    def _features(self, prompts: Sequence[str]) -> Tensor:
        outputs = encoded(self.pipeline, *self._pairs()[1], prompts)
        return torch.cat([output.text_embeds for output in outputs]).to(self.device, self.dtype)

    def _run_unet(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        size = self.pipeline.text_encoder_2.config.projection_dim
        tokens, pooled = unpack_pooled(prompt_embeds, size)
        sizes = self.time_ids().to(pooled).expand(len(pooled), -1)
        output: Tensor = self.pipeline.unet(
            latents,
            timesteps,
            encoder_hidden_states=tokens,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
        return output

    def time_ids(self) -> Tensor:
        """Original size, crop's corner and target size in pixels, [1, 6]."""
        _, height, width = self.latents_shape()
        scale = self.pipeline.vae_scale_factor
        height, width = height * scale, width * scale
        return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)

    def _decode(self, latents: Tensor) -> Any:
        config = self.pipeline.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean, std = (torch.tensor(v).to(latents).view(1, -1, 1, 1) for v in (mean, std))
            latents = latents * std + mean * config.scaling_factor
        return super()._decode(latents)

"""Stable Diffusion 1.x, 2.x and XL base: CLIP text encoders and a UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from erasekit.models.families.base import rows_before_end
from erasekit.models.families.clip import ClipFamily, token_count


def has_openclip(pipeline: Any) -> bool:
    """Whether OpenCLIP reads the prompt: its activation is the exact GELU, OpenAI's QuickGELU."""
    encoder = pipeline.text_encoder
    return encoder is not None and bool(encoder.config.hidden_act == "gelu")


class StableDiffusion1(ClipFamily):
    """Stable Diffusion 1.x and its fine-tunes: the UNet attends to CLIP ViT-L/14's last layer."""

    name = "sd1"

    @classmethod
    def recognises(cls, pipeline: Any) -> bool:
        return not has_openclip(pipeline)

    def _joined(self, outputs: Sequence[Sequence[Any]]) -> Tensor:
        hidden = [output.last_hidden_state for output in outputs[0]]
        return torch.cat(hidden).to(self.device, self.dtype)

    def _features(self, prompts: Sequence[str]) -> Tensor:
        pooled = [output.pooler_output for output in self._encoded(0, prompts)]
        return torch.cat(pooled).to(self.device, self.dtype)

    def _run_unet(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        output: Tensor = self.pipeline.unet(
            latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False
        )[0]
        return output


class StableDiffusion2(StableDiffusion1):
    """Stable Diffusion 2.0 and 2.1, base (predicts noise) and 768 (predicts v).

    The UNet attends to OpenCLIP ViT-H's penultimate layer; diffusers stores that encoder without
    its last layer, so it needs no code here.
    """

    name = "sd2"

    @classmethod
    def recognises(cls, pipeline: Any) -> bool:
        return has_openclip(pipeline)


class StableDiffusionXL(ClipFamily):
    """Stable Diffusion XL base and its fine-tunes: two text encoders, and sizes as conditions.

    A prompt embedding is [L + R, D]: L rows of tokens (both encoders' penultimate layers side by
    side), then the second encoder's pooled vector in R rows filled up with zeros (one row for
    SDXL: L = 77, D = 2048, pooled 1280). So mixtures, gradient steps, norms and caches of
    embeddings carry the pooled vector along and need not know of it. The filling never reaches
    the UNet, so no gradient changes it.

    Pictures are conditioned on being drawn whole, at the model's own size.
    """

    name = "sdxl"
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    options: ClassVar[dict[str, Any]] = {"output_hidden_states": True}

    @classmethod
    def refusal(cls, pipeline: Any) -> str | None:
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            return "it lacks one of SDXL's two text encoders, as the refiner does"
        return super().refusal(pipeline)

    def _joined(self, outputs: Sequence[Sequence[Any]]) -> Tensor:
        pooled = torch.cat([output.text_embeds for output in outputs[1]])
        tokens = [torch.cat([output.hidden_states[-2] for output in one]) for one in outputs]
        return pack_pooled(torch.cat(tokens, dim=-1), pooled).to(self.device, self.dtype)

    def _features(self, prompts: Sequence[str]) -> Tensor:
        pooled = [output.text_embeds for output in self._encoded(1, prompts)]
        return torch.cat(pooled).to(self.device, self.dtype)

    def _last_rows(self, tokens: Tensor, prompts: Sequence[str]) -> Tensor:
        """As in the base; each encoder's part of the row is at its own tokenizer's place."""
        parts, start = [], 0
        for tokenizer, encoder in self._pairs:
            counts = [token_count(self.pipeline, tokenizer, prompt) for prompt in prompts]
            width = encoder.config.hidden_size
            parts.append(rows_before_end(tokens[..., start : start + width], counts))
            start += width
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def unconditional_embeds(self) -> Tensor:
        """Zeros where the model's configuration says so (`force_zeros_for_empty_prompt`)."""
        embeds = super().unconditional_embeds()
        if self.pipeline.config.get("force_zeros_for_empty_prompt", True):
            return torch.zeros_like(embeds)
        return embeds

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
        height, width = (s * self.pipeline.vae_scale_factor for s in self.latents_shape()[1:])
        return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)

    def _decode(self, latents: Tensor) -> np.ndarray:
        config = self.pipeline.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean, std = (torch.tensor(v).to(latents).view(1, -1, 1, 1) for v in (mean, std))
            latents = latents * std + mean * config.scaling_factor
        return super()._decode(latents)


def pack_pooled(tokens: Tensor, pooled: Tensor) -> Tensor:
    """Append pooled vectors [B, P] to token embeddings [B, L, D] as further rows: [B, L + R, D].

    R = ceil(P / D) rows, the last one filled up with zeros.
    """
    batch, _, width = tokens.shape
    filling = -pooled.shape[1] % width
    rows = nn.functional.pad(pooled, (0, filling)).reshape(batch, -1, width)
    return torch.cat([tokens, rows.to(tokens)], dim=1)


def unpack_pooled(prompt_embeds: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Token embeddings [B, L, D] and pooled vectors [B, size] of what `pack_pooled` gave."""
    rows = -(-size // prompt_embeds.shape[2])
    return prompt_embeds[:, :-rows], prompt_embeds[:, -rows:].flatten(1)[:, :size]

"""Stable Diffusion 1.x: one CLIP text encoder whose last hidden states the UNet attends to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.models.families.clip import ClipFamily
from erasekit.models.families.text import encoded, token_count, token_limit


def has_openclip(pipeline: Any) -> bool:
    """Whether OpenCLIP reads the prompt: its activation is the exact GELU, OpenAI's QuickGELU."""
    encoder = pipeline.text_encoder
    return encoder is not None and bool(encoder.config.hidden_act == "gelu")


class StableDiffusion1(ClipFamily):
    """Stable Diffusion 1.x and its fine-tunes: OpenAI's CLIP ViT-L/14 reads the prompt."""

    name = "sd1"

    @classmethod
    def recognises(cls, pipeline: Any) -> bool:
        return not has_openclip(pipeline)

    def text_encoders(self) -> list[nn.Module]:
        return [self.pipeline.text_encoder]

    @property
    def max_tokens(self) -> int:
        return token_limit(self.pipeline.tokenizer, self.pipeline.text_encoder)

    def token_count(self, prompt: str) -> int:
        return token_count(self.pipeline, self.pipeline.tokenizer, prompt)

    def _outputs(self, prompts: Sequence[str]) -> Iterator[Any]:
        pipeline = self.pipeline
        return encoded(pipeline, pipeline.tokenizer, pipeline.text_encoder, prompts)

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        outputs = self._outputs(prompts)
        return torch.cat([output.last_hidden_state for output in outputs]).to(
            self.device, self.dtype
        )

    def _features(self, prompts: Sequence[str]) -> Tensor:
        outputs = self._outputs(prompts)
        return torch.cat([output.pooler_output for output in outputs]).to(self.device, self.dtype)

    def _run_unet(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        output: Tensor = self.pipeline.unet(
            latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False
        )[0]
        return output

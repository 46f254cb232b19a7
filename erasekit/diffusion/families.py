"""What a family of models does its own way: embed a prompt, predict noise, draw and decode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from erasekit.diffusion.passes import PassCount
from erasekit.errors import ConceptError, ModelError


class FamilyAdapter(ABC):
    """One family's way of working, over a diffusers pipeline.

    The objectives are defined on noise, so `predict_noise` returns predicted noise whatever the
    model predicts.
    """

    name: str

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.passes = PassCount()

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = self.pipeline.unet
        return unet

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @abstractmethod
    def check_prompt(self, prompt: str) -> None:
        """Raise `ConceptError` where `prompt` does not fit the tokenizer."""

    @abstractmethod
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings `tau(prompt)`, [B, L, D], without gradient.

        Raises:
            ConceptError: a prompt is longer than the tokenizer's limit.
        """

    @abstractmethod
    def word_features(self, prompts: Sequence[str]) -> Tensor:
        """One vector per prompt to measure nearness of concepts by, [B, F], unit length."""

    @abstractmethod
    def latents_shape(self) -> tuple[int, int, int]:
        """Shape of one latent: channels, height, width."""

    @abstractmethod
    def predict_noise(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Predicted noise eps_theta(z_t, t, c), [B, C, h, w].

        Args:
            latents: z_t, [B, C, h, w].
            timesteps: t, [B].
            prompt_embeds: c, [B, L, D].

        Counts its passes in `passes`, the backward ones when they happen.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> np.ndarray:
        """Images, uint8 [B, H, W, 3], of clean latents [B, C, h, w]."""


class StableDiffusion1(FamilyAdapter):
    """Stable Diffusion 1.x: one CLIP text encoder, predicts noise."""

    name = "sd1"

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
        if prediction != "epsilon":
            raise ModelError(
                f"This model predicts {prediction!r}; family 'sd1' works on models that predict "
                "'epsilon', such as Stable Diffusion 1.4 and 1.5."
            )

    @property
    def max_tokens(self) -> int:
        """The tokenizer's limit, begin and end of text included."""
        return int(
            min(
                self.pipeline.tokenizer.model_max_length,
                self.pipeline.text_encoder.config.max_position_embeddings,
            )
        )

    def check_prompt(self, prompt: str) -> None:
        count = len(self.pipeline.tokenizer(prompt, truncation=False).input_ids)
        if count > self.max_tokens:
            raise ConceptError(
                f"{_shortened(prompt)!r} is {count} tokens long; this model's text encoder takes "
                f"{self.max_tokens} with begin and end of text. Use a shorter one."
            )

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        return self._encode(prompts)[0]

    @torch.no_grad()
    def word_features(self, prompts: Sequence[str]) -> Tensor:
        pooled = self._encode(prompts)[1]
        return nn.functional.normalize(pooled, dim=-1)

    def _encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        for prompt in prompts:
            self.check_prompt(prompt)
        hidden, pooled = [], []
        for start in range(0, len(prompts), 256):
            tokens = self.pipeline.tokenizer(
                list(prompts[start : start + 256]),
                padding="max_length",
                max_length=self.max_tokens,
                truncation=False,
                return_tensors="pt",
            )
            output = self.pipeline.text_encoder(tokens.input_ids.to(self.device))
            hidden.append(output.last_hidden_state)
            pooled.append(output.pooler_output)
        return torch.cat(hidden).to(self.dtype), torch.cat(pooled).to(self.dtype)

    def latents_shape(self) -> tuple[int, int, int]:
        config = self.pipeline.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    def predict_noise(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        noise_pred: Tensor = self.pipeline.unet(
            latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False
        )[0]
        count = latents.shape[0]
        self.passes.forward += count
        if noise_pred.requires_grad:
            noise_pred.register_hook(  # type: ignore[no-untyped-call]
                lambda _: self._count_backward(count)
            )
        return noise_pred

    def _count_backward(self, count: int) -> None:
        self.passes.backward += count

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        vae = self.pipeline.vae
        images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        images = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return np.asarray((images * 255).round(), dtype=np.uint8)


FAMILIES: dict[str, Callable[[Any], FamilyAdapter]] = {"sd1": StableDiffusion1}


def adapter_for(pipeline: Any) -> FamilyAdapter:
    """The adapter of `pipeline`'s family.

    Raises:
        ModelError: the family is not known.
    """
    kind = type(pipeline).__name__
    if kind == "StableDiffusionPipeline":
        return StableDiffusion1(pipeline)
    raise ModelError(
        f"A model of class {kind!r} is of a family that erasekit does not know; it knows "
        f"{', '.join(FAMILIES)} (Stable Diffusion 1.x)."
    )


def _shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."

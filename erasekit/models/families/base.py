"""What a family of models does its own way: embed a prompt, run the UNet, draw and decode."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from erasekit.errors import ConceptError, ModelError
from erasekit.models.unet_passes import PassCount, Runner, UNetPass

PROMPTS_AT_ONCE = 256
"""Prompts that a text encoder embeds at once."""
DECODED_AT_ONCE = 1 << 20
"""Pixels that the VAE decodes at once, one image of 1024x1024; bounds its memory."""


class FamilyAdapter(ABC):
    """One family's way to embed a prompt, run its UNet, draw and decode, over a diffusers pipeline.

    To add a family, subclass this and register a `FamilyDescriptor` with the hook
    `erasekit_register_families`. Abstract methods say what differs between families; the rest is
    shared by latent diffusion models with a UNet.

    Two forms of one prediction: `predict_output` is what the UNet gives and what the model's own
    scheduler takes (noise, or v); `predict_noise` is the noise in it, on which the objectives are
    defined. Guidance may be applied to either, as the conversion is linear.

    Attributes:
        pipeline: a diffusers pipeline whose `refusal` is None.
        passes: UNet passes so far.
        runner: carries UNet passes out; the Trainer lends one for a run.
        truncate: cut prompts that are too long, in place of refusing them.
    """

    name: ClassVar[str]

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.passes = PassCount()
        self.runner = Runner(pipeline.unet)
        self.truncate = False

    @classmethod
    def recognises(cls, pipeline: Any) -> bool:
        """Whether `pipeline`, of a class this family is registered for, is of this family.

        Asked only where several families share a class of pipeline.
        """
        return True

    @classmethod
    def refusal(cls, pipeline: Any) -> str | None:
        """Why this adapter can't work on `pipeline`, as a clause; None where it can."""
        wanted = ["unet", "vae", "scheduler", *(p for p in pipeline.components if "text_" in p)]
        wanted += [part for part in pipeline.components if part.startswith("tokenizer")]
        for part in wanted:
            if getattr(pipeline, part, None) is None:
                return f"it has no {part}; load it whole"
        unet, scheduler = pipeline.unet.config, pipeline.scheduler
        channels = pipeline.vae.config.latent_channels
        prediction = scheduler.config.get("prediction_type", "epsilon")
        if unet.in_channels != channels:
            return (
                f"its UNet takes {unet.in_channels} channels and a latent has {channels}, so it "
                "edits or fills in pictures"
            )
        if unet.get("time_cond_proj_dim") is not None:
            return "its UNet takes the guidance scale as input, as models distilled to LCM do"
        if not hasattr(scheduler, "alphas_cumprod"):
            return f"its scheduler {type(scheduler).__name__} has no noise schedule abar_t"
        taken = inspect.signature(scheduler.step).parameters.values()
        needed = sum(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in taken)
        if not hasattr(scheduler, "init_noise_sigma") or needed > 3:
            return f"its scheduler {type(scheduler).__name__} is for other pipelines"
        if prediction not in ("epsilon", "v_prediction"):
            return f"it predicts {prediction!r}; noise can be had from 'epsilon' and 'v_prediction'"
        if prediction == "epsilon" and scheduler.config.get("rescale_betas_zero_snr"):
            return (
                "its scheduler has zero terminal SNR (rescale_betas_zero_snr) while it predicts "
                "noise, and no picture follows from the noise in pure noise; if it predicts v, set "
                "prediction_type='v_prediction' in the scheduler's configuration"
            )
        return None

    @abstractmethod
    def text_encoders(self) -> list[nn.Module]:
        """The text encoders, in the pipeline's order."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """The text encoder's limit, begin and end of text included."""

    @abstractmethod
    def token_count(self, prompt: str) -> int:
        """Tokens of `prompt`, begin and end of text included."""

    @abstractmethod
    def _embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings [B, L, D] of prompts that were checked; cuts those too long."""

    @abstractmethod
    def _features(self, prompts: Sequence[str]) -> Tensor:
        """Pooled vectors [B, F] of prompts that were checked, of any length."""

    @abstractmethod
    def _run_unet(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """One UNet pass, [B, C, h, w]. Arguments as `predict_noise`."""

    def _last_rows(self, tokens: Tensor, prompts: Sequence[str]) -> Tensor:
        """Of rows [B, L, D], those of the last content tokens, [B, D]."""
        return rows_before_end(tokens, [self.token_count(prompt) for prompt in prompts])

    @torch.no_grad()
    def unconditional_embeds(self) -> Tensor:
        """What guidance works against, [1, L, D]: the empty prompt, as the model has it."""
        return self._embed([""])

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = self.pipeline.unet
        return unet

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of latents and prompt embeddings: as the UNet's weights, or as the runner has it."""
        return self.runner.dtype or next(self.unet.parameters()).dtype

    @property
    def prediction_type(self) -> str:
        """What the UNet gives: "epsilon" or "v_prediction", as the scheduler is configured."""
        return str(self.pipeline.scheduler.config.get("prediction_type", "epsilon"))

    @property
    def alphas_cumprod(self) -> Tensor:
        """abar_t of the model's noise schedule, [T], float32."""
        alphas: Tensor = self.pipeline.scheduler.alphas_cumprod
        return alphas.to(self.device, torch.float32)

    def latents_shape(self) -> tuple[int, int, int]:
        """Shape of one latent: channels, height, width."""
        config = self.pipeline.unet.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    def check_prompt(self, prompt: str) -> None:
        """Raise `ConceptError` where `prompt` is too long, unless `truncate` is set."""
        count = 0 if self.truncate else self.token_count(prompt)
        if count > self.max_tokens:
            shortened = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
            raise ConceptError(
                f"{shortened!r} is {count} tokens long; this model's text encoder takes "
                f"{self.max_tokens} with begin and end of text. Use a shorter one; "
                "generate --truncate cuts it."
            )

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings `tau(prompt)`, [B, L, D], without gradient.

        All that the UNet takes from the prompt is in this one tensor, so that it can be indexed,
        stacked, mixed and differentiated.

        Raises:
            ConceptError: a prompt is longer than the tokenizer's limit, and `truncate` is off.
        """
        for prompt in prompts:
            self.check_prompt(prompt)
        return self._embed(prompts)

    def token_embeds(self, prompts: Sequence[str]) -> Tensor:
        """The rows of `embed_prompts` that keys and values of cross-attention read, [B, L, D]."""
        return self.embed_prompts(prompts)[:, : self.max_tokens]

    def last_token_embeds(self, prompts: Sequence[str]) -> Tensor:
        """The row of each prompt's last content token, right before the end of text, [B, D].

        The empty prompt has no content; the row before its end is that of the begin of text.
        """
        starts = range(0, len(prompts), PROMPTS_AT_ONCE)
        parts = [prompts[i : i + PROMPTS_AT_ONCE] for i in starts]
        return torch.cat([self._last_rows(self.token_embeds(part), part) for part in parts])

    @torch.no_grad()
    def word_features(self, prompts: Sequence[str]) -> Tensor:
        """One vector per prompt to measure nearness of concepts by, [B, F], unit length."""
        for prompt in prompts:
            self.check_prompt(prompt)
        return nn.functional.normalize(self._features(prompts), dim=-1)

    def predict_noise(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Predicted noise eps_theta(z_t, t, c), [B, C, h, w].

        Counts its passes in `passes`, the backward ones when they happen.

        Args:
            latents: z_t, [B, C, h, w], in the variance-preserving scale of DDPM.
            timesteps: t, [B], int64.
            prompt_embeds: c, [B, L, D].
        """
        output = self.predict_output(latents, timesteps, prompt_embeds)
        return self.to_noise(output, latents, timesteps)

    def predict_output(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """The UNet's output as it is, which the model's scheduler takes; as `predict_noise`."""
        return self._carried_out(self._run_unet, latents, timesteps, prompt_embeds)

    def to_noise(self, output: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The noise in the UNet's output, [B, C, h, w].

        Of v-prediction, eps = sqrt(abar_t) v + sqrt(1 - abar_t) z_t (Salimans and Ho, ICLR 2022,
        appendix D), computed in float32. `latents` and `timesteps` are what the UNet was given.
        """
        if self.prediction_type == "epsilon":
            return output
        alphas = self.alphas_cumprod[timesteps.to(self.device)][:, None, None, None]
        noise = alphas.sqrt() * output + (1 - alphas).sqrt() * latents
        return noise.to(output.dtype)

    def read_pass(
        self,
        read: Callable[[Callable[[], Tensor], Tensor], Tensor],
        latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: Tensor,
        planes: Tensor,
    ) -> Tensor:
        """What `read` takes from a UNet pass beside its output, such as a loss on attention maps.

        The pass is carried out and counted as that of `predict_noise`: perhaps in parts, and once
        more in the backward pass. So gradients flow through what `read` gives alone.

        Args:
            read: given a function that runs the UNet and gives its output, and the planes of the
                same rows, [b, K, h, w]; gives one tensor of as many rows, [b, ...]. It leaves
                nothing behind in the UNet.
            planes: what belongs to each row, such as masks, [B, K, h, w].
        """
        channels = latents.shape[1]

        def run(rows: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
            return read(
                lambda: self._run_unet(rows[:, :channels], timesteps, prompt_embeds),
                rows[:, channels:],
            )

        rows = torch.cat([latents, planes.to(latents)], dim=1)
        return self._carried_out(run, rows, timesteps, prompt_embeds)

    def _carried_out(
        self, run: UNetPass, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        """The output of `run` for all rows, with its passes counted."""
        output = self.runner(run, latents, timesteps, prompt_embeds)
        passes, count = self.passes, len(latents)
        passes.forward += count

        def count_backward(_: Tensor) -> None:
            passes.backward += count

        if output.requires_grad:
            output.register_hook(count_backward)  # type: ignore[no-untyped-call]
        return output

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Images, uint8 [B, H, W, 3], of clean latents [B, C, h, w].

        A VAE that overflows in fp16 (`force_upcast`) decodes in float32.

        Raises:
            ModelError: a value is not finite; cast to a picture it would pass for black.
        """
        scale = self.pipeline.vae_scale_factor
        rows = max(1, DECODED_AT_ONCE // (latents.shape[2] * latents.shape[3] * scale**2))
        with self._whole_vae() as vae:
            chunks = [self._decode(part.to(vae.dtype)) for part in torch.split(latents, rows)]
        return np.concatenate(chunks)

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Tensor:
        """Clean latents [B, C, h, w] of images, uint8 [B, H, W, 3]; the mean that the VAE gives."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        rows = max(1, DECODED_AT_ONCE // (images.shape[1] * images.shape[2]))
        with self._whole_vae() as vae:
            chunks = [
                vae.encode(part.to(vae.device, vae.dtype)).latent_dist.mode()
                for part in torch.split(pixels, rows)
            ]
        latents: Tensor = torch.cat(chunks) * vae.config.scaling_factor
        return latents.to(self.device, self.dtype)

    @contextmanager
    def _whole_vae(self) -> Iterator[Any]:
        """The VAE, in float32 for the block where it overflows in fp16."""
        vae = self.pipeline.vae
        dtype = vae.dtype
        upcast = dtype == torch.float16 and vae.config.get("force_upcast", False)
        try:
            yield vae.to(torch.float32) if upcast else vae
        finally:
            if upcast:
                vae.to(dtype)

    def _decode(self, latents: Tensor) -> np.ndarray:
        vae = self.pipeline.vae
        images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        images = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        if not np.isfinite(images).all():
            raise ModelError(
                "The model draws pictures with values that are no numbers: its weights are ruined, "
                "or it overflows in half precision; load it in float32."
            )
        return np.asarray((images * 255).round(), dtype=np.uint8)


def rows_before_end(tokens: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows right before the end of text, [B, D], of token embeddings [B, L, D].

    Args:
        counts: tokens of each prompt, begin and end of text included; above L it was cut to L.
    """
    rows = torch.tensor([min(count, tokens.shape[1]) - 2 for count in counts])
    return tokens[torch.arange(len(rows)), rows]

"""CLIP text encoders: tokens in, hidden states and a pooled vector out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 256
"""Prompts encoded at once."""


@dataclass(frozen=True)
class TokenRows(Sequence[str]):
    """Prompts as tokens, some of them vectors. See `ClipFamily.embed_tokens`.

    Attributes:
        ids: [B, L].
        free: [B, L], where tokens are vectors; None: nowhere.
        vectors: of the free tokens, [S, d], by text encoder.
    """

    ids: Tensor
    free: Tensor | None = None
    vectors: Mapping[nn.Module, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("rows of tokens are read whole")

    def encoded(self, tokenizer: Any, text_encoder: Any, **options: Any) -> Any:
        """The text encoder's output, padded as its tokenizer pads."""
        ends = self.ids == tokenizer.eos_token_id
        padding = ends.cumsum(dim=1) - ends.long() > 0
        ids = self.ids.masked_fill(padding, tokenizer.pad_token_id).to(text_encoder.device)
        free, vectors = self.free, self.vectors.get(text_encoder)
        if free is None or vectors is None:
            return text_encoder(ids, **options)

        def put(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output.masked_scatter(free[..., None].to(output.device), vectors.to(output))

        hook = text_encoder.get_input_embeddings().register_forward_hook(put)
        try:
            return text_encoder(ids, **options)
        finally:
            hook.remove()


def token_limit(tokenizer: Any, text_encoder: Any) -> int:
    """Tokens that both take, begin and end of text included."""
    return int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))


def converted(pipeline: Any, tokenizer: Any, prompt: str) -> str:
    """The prompt with every token of a textual inversion of several vectors, as diffusers does."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    return str(convert(prompt, tokenizer)) if convert else prompt


def token_count(pipeline: Any, tokenizer: Any, prompt: str) -> int:
    """Tokens of `prompt`, begin and end of text included."""
    text = converted(pipeline, tokenizer, prompt)
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)


def encoded(
    pipeline: Any, tokenizer: Any, text_encoder: Any, prompts: Sequence[str], **options: Any
) -> Iterator[Any]:
    """The text encoder's outputs for `prompts`, in batches, each padded or cut to the limit.

    A prompt that is cut keeps its end of text, as in plain diffusers. Computed where the encoder
    is, which may be the CPU while the UNet is on a GPU.

    Args:
        prompts: texts, or `TokenRows`.
        options: passed to the text encoder.
    """
    if isinstance(prompts, TokenRows):
        yield prompts.encoded(tokenizer, text_encoder, **options)
        return
    for start in range(0, len(prompts), BATCH):
        tokens = tokenizer(
            [converted(pipeline, tokenizer, p) for p in prompts[start : start + BATCH]],
            padding="max_length",
            max_length=token_limit(tokenizer, text_encoder),
            truncation=True,
            return_tensors="pt",
        )
        yield text_encoder(tokens.input_ids.to(text_encoder.device), **options)


def rows_before_end(tokens: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows right before the end of text, [B, D].

    Args:
        tokens: token embeddings, [B, L, D].
        counts: tokens of each prompt, begin and end of text included; above L it was cut to L.
    """
    rows = torch.tensor([min(count, tokens.shape[1]) - 2 for count in counts])
    return tokens[torch.arange(len(rows)), rows]


def pack_pooled(tokens: Tensor, pooled: Tensor) -> Tensor:
    """Append pooled vectors [B, P] to token embeddings [B, L, D] as further rows: [B, L + R, D].

    R = ceil(P / D) rows, the last one filled up with zeros.
    """
    batch, _, width = tokens.shape
    rows = pooled_rows(pooled.shape[1], width)
    padded = torch.zeros(batch, rows * width, dtype=tokens.dtype, device=tokens.device)
    padded[:, : pooled.shape[1]] = pooled
    return torch.cat([tokens, padded.reshape(batch, rows, width)], dim=1)


def unpack_pooled(prompt_embeds: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Token embeddings [B, L, D] and pooled vectors [B, size] of what `pack_pooled` gave."""
    rows = pooled_rows(size, prompt_embeds.shape[2])
    return prompt_embeds[:, :-rows], prompt_embeds[:, -rows:].flatten(1)[:, :size]


def pooled_rows(size: int, width: int) -> int:
    """Rows of `width` that hold a vector of `size`."""
    return -(-size // width)

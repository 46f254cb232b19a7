"""Families whose prompts CLIP's text encoders read: their tokens can be vectors, with gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from erasekit.models.families.base import PROMPTS_AT_ONCE, FamilyAdapter


class ClipFamily(FamilyAdapter):
    """A family of which a search over tokens can ask for embeddings of any token vectors.

    A token vector, [T], is a token's row in the embedding table of every text encoder, side by
    side; the encoders share one vocabulary.

    Class attributes:
        encoders: names of the pipeline's tokenizers and text encoders, in pairs.
        options: what the text encoders are asked for beside their tokens.
    """

    encoders: ClassVar[Sequence[tuple[str, str]]] = (("tokenizer", "text_encoder"),)
    options: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def _joined(self, outputs: Sequence[Sequence[Any]]) -> Tensor:
        """Prompt embeddings [B, L, D] of what each text encoder gives, batch by batch."""

    @property
    def _pairs(self) -> list[tuple[Any, Any]]:
        pipeline = self.pipeline
        return [(getattr(pipeline, t), getattr(pipeline, e)) for t, e in self.encoders]

    def text_encoders(self) -> list[nn.Module]:
        return [encoder for _, encoder in self._pairs]

    @property
    def max_tokens(self) -> int:
        return min(token_limit(*pair) for pair in self._pairs)

    def token_count(self, prompt: str) -> int:
        return max(token_count(self.pipeline, tokenizer, prompt) for tokenizer, _ in self._pairs)

    def _encoded(self, which: int, prompts: Sequence[str]) -> list[Any]:
        """Outputs of one text encoder, a batch each."""
        return list(encoded(self.pipeline, *self._pairs[which], prompts, **self.options))

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        return self._joined([self._encoded(i, prompts) for i in range(len(self.encoders))])

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, [B, L], begin and end of text included; prompts that are too long are cut."""
        return tokenized(self.pipeline, self.pipeline.tokenizer, prompts, self.max_tokens)

    def token_table(self) -> Tensor:
        """The vectors of all tokens, [V, T]."""
        tables = [encoder.get_input_embeddings().weight for _, encoder in self._pairs]
        return torch.cat(tables, dim=1).detach()

    def embed_tokens(
        self, ids: Tensor, free: Tensor | None = None, vectors: Tensor | None = None
    ) -> Tensor:
        """Prompt embeddings [B, L, D] of tokens, as `embed_prompts`, with gradient.

        Args:
            ids: [B, L], as `token_ids` gives them; what stands behind the end of text is padding.
            free: [B, L], where a vector takes the place of the token's own.
            vectors: those vectors, row by row, [S, T].
        """
        outputs, start = [], 0
        for tokenizer, encoder in self._pairs:
            ends = ids == tokenizer.eos_token_id
            padding = ends.cumsum(dim=1) - ends.long() > 0
            own = ids.masked_fill(padding, tokenizer.pad_token_id).to(encoder.device)
            table, hooks = encoder.get_input_embeddings(), []
            if free is not None and vectors is not None:
                part = vectors[:, start : start + table.embedding_dim]
                start += table.embedding_dim
                hooks = [table.register_forward_hook(_putter(free[..., None], part))]
            try:
                outputs.append([encoder(own, **self.options)])
            finally:
                for hook in hooks:
                    hook.remove()
        return self._joined(outputs)


def _putter(where: Tensor, vectors: Tensor) -> Any:
    """A hook that puts vectors [S, d] in the place of the embeddings where `where` [B, L, 1] is."""
    return lambda module, args, output: output.masked_scatter(
        where.to(output.device), vectors.to(output)
    )


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


def tokenized(pipeline: Any, tokenizer: Any, prompts: Sequence[str], limit: int) -> Tensor:
    """Token ids [B, limit], padded or cut; a prompt that is cut keeps its end of text."""
    ids: Tensor = tokenizer(
        [converted(pipeline, tokenizer, prompt) for prompt in prompts],
        padding="max_length",
        max_length=limit,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def encoded(
    pipeline: Any, tokenizer: Any, text_encoder: Any, prompts: Sequence[str], **options: Any
) -> Iterator[Any]:
    """The text encoder's outputs for `prompts`, batch by batch, each padded or cut to the limit.

    Computed where the encoder is, which may be the CPU while the UNet is on a GPU. `options` go to
    the text encoder.
    """
    limit = token_limit(tokenizer, text_encoder)
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        ids = tokenized(pipeline, tokenizer, prompts[start : start + PROMPTS_AT_ONCE], limit)
        yield text_encoder(ids.to(text_encoder.device), **options)

"""Families whose prompts CLIP's text encoders read: their tokens can be vectors, with gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erasekit.models.families.base import FamilyAdapter
from erasekit.models.families.text import TokenRows, converted


class ClipFamily(FamilyAdapter):
    """A family of which a search over tokens can ask for embeddings of any token vectors.

    A token vector, [T], is a token's row in the embedding table of every text encoder, side by
    side; the encoders share one vocabulary.
    """

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, [B, L], begin and end of text included; prompts that are too long are cut."""
        tokenizer = self.pipeline.tokenizer
        ids: Tensor = tokenizer(
            [converted(self.pipeline, tokenizer, prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids

    def token_table(self) -> Tensor:
        """The vectors of all tokens, [V, T]."""
        tables = [encoder.get_input_embeddings().weight for encoder in self.text_encoders()]  # type: ignore[operator]
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
        if free is None or vectors is None:
            return self._embed(TokenRows(ids))
        encoders = self.text_encoders()
        widths = [encoder.get_input_embeddings().embedding_dim for encoder in encoders]  # type: ignore[operator]
        own = dict(zip(encoders, torch.split(vectors, widths, dim=1), strict=True))
        return self._embed(TokenRows(ids, free, own))

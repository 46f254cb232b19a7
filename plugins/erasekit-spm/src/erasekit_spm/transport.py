"""Facilitated transport: how far a prompt opens the adapters of each concept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from erasekit.models.families import FamilyAdapter

Rule = Literal["max", "product", "none"]


def strengths(cosines: Tensor, overlaps: Sequence[Sequence[float] | None], rule: Rule) -> Tensor:
    """Strengths [B, E] in [0, 1].

    Args:
        cosines: of the prompts' embeddings and the concepts', [B, E]; below 0 counts as 0.
        overlaps: per prompt, the share of each concept's tokens that are in it; None where its
            tokens are not known, and the cosine alone decides.
        rule: how the two are put together; "none" opens all adapters wholly.
    """
    if rule == "none":
        return torch.ones_like(cosines)
    found = cosines.clamp(0, 1)
    for row, shares in zip(found, overlaps, strict=True):
        if shares is not None:
            other = torch.tensor(shares, dtype=row.dtype, device=row.device)
            row.copy_(torch.maximum(row, other) if rule == "max" else row * other)
    return found


def cosines(prompt_embeds: Tensor, concepts: Tensor) -> Tensor:
    """Cosines of embeddings [B, L, D] with those of concepts [E, L, D], all tokens in one: [B, E].

    Zeros, which some models take for the empty prompt, have cosine 0 with everything.
    """
    a = nn.functional.normalize(prompt_embeds.flatten(1).float(), dim=-1)
    b = nn.functional.normalize(concepts.flatten(1).to(a), dim=-1)
    return a @ b.T


class KnownTokens:
    """Which tokens an embedding came from, of prompts that were encoded in its block.

    Args:
        family: whose first text encoder is listened to.
    """

    def __init__(self, family: FamilyAdapter) -> None:
        tokenizer = family.pipeline.tokenizer
        self.encoder = family.text_encoders()[0]
        self.special = set(tokenizer.all_special_ids)
        self._tokens: dict[bytes, frozenset[int]] = {}
        self._width = 0

    def of(self, prompt_embeds: Tensor) -> frozenset[int] | None:
        """The tokens of one embedding [L, D], special ones left out; None where not known."""
        return self._tokens.get(_key(prompt_embeds[:, : self._width]))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """For the block, hear which tokens give which embedding."""
        handle = self.encoder.register_forward_hook(self._hear, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _hear(
        self, encoder: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        states = [output[0]]
        if getattr(output, "last_hidden_state", None) is not None:
            states = [output.last_hidden_state]
        if getattr(output, "hidden_states", None) is not None:
            states.append(output.hidden_states[-2])  # what the UNets of SDXL attend to
        for state in states:
            self._width = state.shape[-1]
            for row, own in zip(state, ids, strict=True):
                self._tokens[_key(row)] = frozenset(own.tolist()) - self.special


def _key(values: Tensor) -> bytes:
    """A hash of values rounded to half precision, in which text encoders and UNets may differ."""
    rounded = values.detach().to("cpu", torch.float16).contiguous()
    return hashlib.sha256(rounded.numpy().tobytes()).digest()


def concept_tokens(family: FamilyAdapter, concept: str) -> frozenset[int]:
    """The concept's tokens, special ones left out."""
    tokenizer = family.pipeline.tokenizer
    ids = tokenizer(concept, truncation=True).input_ids
    return frozenset(ids) - set(tokenizer.all_special_ids)


def overlap(prompt: frozenset[int], concept: frozenset[int]) -> float:
    """The share of the concept's tokens that are in the prompt."""
    return len(prompt & concept) / len(concept) if concept else 0.0

"""A method without training: cross-attention's keys and values by least squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from erasekit.config import Settings
from erasekit.errors import ScopeError
from erasekit.methods.base import ErasureContext, ErasureMethod

PROJECTIONS = ("attn2.to_k.weight", "attn2.to_v.weight")


class ClosedFormConfig(Settings):
    """Hyperparameters; each becomes a `--set` key, and a row of `erasekit methods show`."""

    concept_space: str = Field(
        "", description="words to keep: a registered source or a file; empty: the model's own"
    )
    num_concepts: int = Field(100, gt=0, description="words of it nearest to the erased concepts")
    keep_weight: float = Field(0.1, ge=0, description="weight of the kept words")
    ridge: float = Field(0.1, gt=0, description="weight of staying near the original matrix")


class ClosedFormErasure(ErasureMethod):
    """W' = argmin sum_e ||W' c_e - W c_n||^2 + keep_weight sum_p ||W' c_p - W c_p||^2
                 + ridge ||W' - W||^2

    for every key and value projection W of cross-attention, over the token embeddings of the
    erased prompts c_e (each mapped to the neutral prompt's token at its place) and of the kept
    prompts c_p. The minimum solves linear equations, so there is one step and no loss.
    """

    Config = ClosedFormConfig
    config: ClosedFormConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {"steps": 1, "scope": "xattn-kv"}

    def prepare(self, context: ErasureContext) -> None:
        """Pick the projections in scope, and embed what goes, its target and what stays.

        Raises:
            ScopeError: there is no key or value projection in scope.
        """
        self.projections = {
            name: p for name, p in context.parameters.items() if name.endswith(PROJECTIONS)
        }
        if not self.projections:
            raise ScopeError(
                "The method 'template-closed-form' edits keys and values of cross-attention, and "
                "the scope has none; use --scope xattn-kv."
            )
        space = context.concept_space(self.config.concept_space)
        kept = space.nearest(context.erased_features, self.config.num_concepts)
        self.erased = context.erased_embeds
        self.target = context.neutral_embeds.expand_as(self.erased)
        self.kept = kept.prompt_embeds

    @torch.no_grad()
    def training_step(self, step: int) -> None:
        """Solve for every projection; returning None tells the Trainer there is no gradient."""
        for weight in self.projections.values():
            weight.copy_(solve(weight, self.erased, self.target, self.kept, self.config))


def solve(
    weight: Tensor, erased: Tensor, target: Tensor, kept: Tensor, config: ClosedFormConfig
) -> Tensor:
    """The new projection.

    Args:
        weight: W, [out, D].
        erased: embeddings of the erased prompts, [E, L, D].
        target: embeddings they are mapped to, [E, L, D].
        kept: embeddings of the kept prompts, [K, L, D].
        config: the weights of the three terms.

    Returns:
        W' [out, D], from W' A = B with A [D, D] and B [out, D], in double precision.
    """
    w = weight.double()
    c_e, c_n, c_p = (tokens.flatten(0, 1).double() for tokens in (erased, target, kept))
    identity = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    stays = config.keep_weight * c_p.T @ c_p + config.ridge * identity
    a = c_e.T @ c_e + stays
    b = w @ (c_n.T @ c_e + stays)
    solution: Tensor = torch.linalg.solve(a, b, left=False)
    return solution.to(weight.dtype)

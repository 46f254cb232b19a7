"""Reliable and Efficient Concept Erasure: UCE against the embeddings that would undo it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor

from erasekit.methods.base import ErasureContext
from erasekit.methods.closed_form import ClosedFormConfig, ClosedFormErasure, mapping_update


class ReceConfig(ClosedFormConfig):
    """Hyperparameters; the defaults are those of the authors' code for objects."""

    epochs: int = Field(
        5, ge=0, description="rounds of finding adversarial embeddings and erasing them, after UCE"
    )
    regularisation: float = Field(
        1e-3, gt=0, description="weight of an adversarial embedding's own square"
    )
    erase_scale: float = Field(
        1.0, ge=0, description="weight of each erased concept and adversarial embedding"
    )
    preserve_scale: float = Field(
        0.1, ge=0, description="weight of each kept concept; the empty prompt is always kept"
    )
    ridge: float = Field(
        0.1, gt=0, description="lambda: weight of staying near the projections before an edit"
    )


class ReliableEfficientErasure(ClosedFormErasure):
    """UCE, then `epochs` times: the embedding that still draws the concept, and UCE against it.

    For each erased concept c, with the original projections W_i and those edited so far W'_i,

        c' = argmin sum_i ||W'_i c' - W_i c||^2 + regularisation ||c'||^2
           = (regularisation I + sum_i W'_i^T W'_i)^-1 (sum_i W'_i^T W_i) c

    (Gong et al., ECCV 2024, section 3.3), over all keys and values in scope together. An edit
    starts from the projections of the one before, and maps c' where c was mapped.

    Attributes (after `prepare`, beside the inherited ones):
        originals: W_i of the projections in scope.
        keys: what the next edit erases, c or c', [E, D].
    """

    Config = ReceConfig
    config: ReceConfig

    def prepare(self, context: ErasureContext) -> None:
        super().prepare(context)
        if "" not in self.kept_words:
            self.kept_words = ["", *self.kept_words]
            self.kept = self.rows(self.kept_words)
        self.originals = [self.exact(context.frozen.values[name]) for name in self.projections]
        self.keys = self.erased

    @torch.no_grad()
    def training_step(self, step: int) -> None:
        """Erase the concepts, then their adversarial embeddings, epoch by epoch, in float64."""
        weights = {name: self.exact(p) for name, p in self.projections.items()}
        for epoch in range(self.config.epochs + 1):
            self.context.on_status(f"epoch {epoch} of {self.config.epochs}")
            self.keys = self.erased
            if epoch:
                self.keys = adversarial_embeds(
                    self.originals, weights.values(), self.erased, self.config.regularisation
                )
            for name, weight in weights.items():
                weights[name] = weight + self.update(name, weight)
        for name, parameter in self.projections.items():
            parameter.copy_(weights[name])

    def update(self, name: str, weight: Tensor) -> Tensor:
        return mapping_update(
            weight,
            self.keys,
            self.guides,
            self.kept,
            erase_scale=self.config.erase_scale,
            preserve_scale=self.config.preserve_scale,
            ridge=self.config.ridge,
        )


def adversarial_embeds(
    originals: Iterable[Tensor], edited: Iterable[Tensor], erased: Tensor, regularisation: float
) -> Tensor:
    """Embeddings that the edited projections read most nearly as the originals read `erased`.

    Args:
        originals: W_i, [out_i, D] each.
        edited: W'_i, in the same order.
        erased: c, [E, D].
        regularisation: weight of ||c'||^2, above 0.

    Returns:
        c' = argmin sum_i ||W'_i c' - W_i c||^2 + regularisation ||c'||^2, [E, D], float64.
    """
    keys = erased.double()
    left = regularisation * torch.eye(keys.shape[1], dtype=keys.dtype, device=keys.device)
    right = torch.zeros_like(left)
    for original, new in zip(originals, edited, strict=True):
        left += new.double().T @ new.double()
        right += new.double().T @ original.double()
    solution: Tensor = torch.linalg.solve(left, right @ keys.T)
    return solution.T

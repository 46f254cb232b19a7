"""The two least squares of MACE: words around a concept refined, and adapters fused.

Both have the form

    Delta = argmin sum_i ||Delta e_i - r_i||^2 + lambda sum_p ||Delta e_p||^2 + ridge ||Delta||^2

with Delta the change of a projection W, e_i rows of prompts of erased concepts and e_p rows of
what is kept. All in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Solver:
    """(sum_i r_i e_i^T) (sum_i e_i e_i^T + lambda sum_p e_p e_p^T + ridge I)^-1.

    The matrix is the same for all projections, so it is factored once.

    Args:
        keys: e_i in rows, [N, D].
        kept: e_p in rows, [M, D]; M may be 0.
        preserve_scale: lambda, not negative.
        ridge: above 0.
    """

    def __init__(self, keys: Tensor, kept: Tensor, preserve_scale: float, ridge: float) -> None:
        self.keys = keys.double()
        kept = kept.double()
        gram = self.keys.T @ self.keys + preserve_scale * (kept.T @ kept)
        gram.diagonal().add_(ridge)
        self._factor = torch.linalg.cholesky(gram)

    def update(self, residuals: Tensor) -> Tensor:
        """Delta, [out, D], for r_i in rows, [N, out]."""
        return torch.cholesky_solve(self.keys.T @ residuals.double(), self._factor).T


def refinement_residuals(weight: Tensor, found: Tensor, wanted: Tensor) -> Tensor:
    """W e_g - W e_f: words beside a concept are to give what they give beside its guide.

    Lu et al., CVPR 2024, closed-form cross-attention refinement.

    Args:
        weight: W, [out, D].
        found: e_f, rows of prompts with the concept, [N, D].
        wanted: e_g, the same words' rows with the guide in its place, [N, D].

    Returns:
        [N, out], float64.
    """
    return (wanted.double() - found.double()) @ weight.double().T


def fusion_residuals(
    refinement: Tensor, factors: list[tuple[Tensor, Tensor]], rows: list[Tensor]
) -> Tensor:
    """(W' + u_i v_i - W) e_ij: each concept's rows are to give what its own adapter gives.

    Lu et al., CVPR 2024, fusion of LoRA modules.

    Args:
        refinement: W' - W, [out, D].
        factors: v_i [R, D] and u_i [out, R] of each concept.
        rows: e_ij of each concept, [N_i, D] each.

    Returns:
        [sum_i N_i, out], float64.
    """
    parts = []
    for (down, up), own in zip(factors, rows, strict=True):
        change = refinement.double() + up.double() @ down.double()
        parts.append(own.double() @ change.T)
    return torch.cat(parts)

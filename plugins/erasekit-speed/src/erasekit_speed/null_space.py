"""What an update may touch: the algebra of SPEED (Li et al., 2025) apart from the solution."""

from __future__ import annotations

import torch
from torch import Tensor


def free_directions(kept: Tensor, invariant: Tensor, threshold: float) -> Tensor:
    """Orthonormal directions that the kept rows hardly have, and the invariant rows not at all.

    For any Delta = Z N^T with this basis N, invariant rows give Delta c = 0, and the mean of
    ||Delta c||^2 over kept rows is at most ||Z||_2^2 times the sum of the eigenvalues below
    `threshold`.

    Args:
        kept: C_0, [n, D]; n may be 0.
        invariant: C_2, [k, D].
        threshold: eigenvalues of kept^T kept / n below this count as null.

    Returns:
        N, [D, r], float64; r may be 0.
    """
    width = invariant.shape[1]
    null = torch.eye(width, dtype=torch.float64, device=invariant.device)
    if len(kept):
        values, vectors = torch.linalg.eigh(kept.double().T @ kept.double() / len(kept))
        null = vectors[:, values < threshold]
    if not null.shape[1]:
        return null
    inside = null.T @ invariant.double().T
    left, values, _ = torch.linalg.svd(inside, full_matrices=True)
    scale = torch.linalg.matrix_norm(invariant.double(), 2)
    rank = int((values > 1e-10 * scale).sum())
    free: Tensor = null @ left[:, rank:]
    return free


def invariant_rows(empty: Tensor, leading: int) -> Tensor:
    """C_2: the begin of text, and the leading directions of the rows behind it, [1 + k, D].

    Args:
        empty: rows of the empty prompt, [L, D].
        leading: how many of their right singular vectors; cut to what there are.
    """
    _, _, directions = torch.linalg.svd(empty[1:], full_matrices=False)
    return torch.cat([empty[:1], directions[:leading]])


def influential(kept: Tensor, update: Tensor) -> Tensor:
    """Rows that `update` moves at least as much as it moves them on average, [m, D].

    Influence-based prior filtering: the influence of a row c is ||Delta c||, Delta being the update
    without constraints, [out, D].
    """
    if not len(kept):
        return kept
    influence = (kept @ update.T).norm(dim=1)
    return kept[influence >= influence.mean()]


def augmented(kept: Tensor, weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Variations of the kept rows that the projection reads nearly alike, [count * n, D].

    Directed prior augmentation: c + v v^T eps with eps ~ N(0, I), where v is the right singular
    vector of W to its smallest singular value.

    Args:
        kept: [n, D].
        weight: W, [out, D].
        count: variations of each row.
        generator: on the CPU.
    """
    _, _, directions = torch.linalg.svd(weight.double(), full_matrices=False)
    flattest = directions[-1]
    noise = torch.randn(count * len(kept), len(flattest), generator=generator, dtype=torch.float64)
    along = noise.to(kept.device) @ flattest
    copies: Tensor = kept.repeat(count, 1) + along[:, None] * flattest
    return copies

"""The Frechet distance of two sets of features."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def frechet_distance(features: ArrayLike, reference: ArrayLike) -> float:
    """Distance of the Gaussians that two sets have the means and covariances of.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), Dowson and Landau (J. Multivariate Anal. 12, 1982);
    FID where the features are Inception's (Heusel et al., NeurIPS 2017). With A and B the centred
    features over sqrt(n - 1), S1 = A^T A and S2 = B^T B, so the trace of the root is the sum of
    the singular values of A B^T. Nothing is squared or rooted, and a covariance may be singular.

    Args:
        features, reference: [N, D] and [M, D], one row per image; worked on in float64.

    Returns:
        0 or more; NaN where a set has fewer than two rows, or a value that is not finite.
    """
    one, other = (np.asarray(rows, dtype=np.float64) for rows in (features, reference))
    if min(len(one), len(other)) < 2 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.nan
    apart = float(((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum())
    a, b = _factor(one), _factor(other)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(apart + float((a**2).sum() + (b**2).sum() - 2 * root), 0.0)


def _factor(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """A with A^T A the covariance of `rows`, [min(N, D), D]."""
    centred: NDArray[np.float64] = (rows - rows.mean(axis=0)) / math.sqrt(len(rows) - 1)
    if len(rows) <= rows.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred).R, dtype=np.float64)

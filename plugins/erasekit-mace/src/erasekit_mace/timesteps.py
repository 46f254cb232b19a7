"""Which timesteps the adapters are trained at."""

from __future__ import annotations

import torch
from torch import Tensor


def timestep_weights(count: int, low: float, high: float, sharpness: float) -> Tensor:
    """xi(t) = ( sigma(gamma (t - t1)) - sigma(gamma (t - t2)) ) / Z, [T], float64; adds up to 1.

    Lu et al., CVPR 2024, concept-focal importance sampling. Their t1 = 200, t2 = 400 and
    gamma = 0.05 are of 1000 timesteps; here t1 and t2 are shares of T, and gamma is scaled with it.

    Args:
        count: T.
        low, high: t1 / T and t2 / T, low below high.
        sharpness: gamma at 1000 timesteps.
    """
    t = torch.arange(count, dtype=torch.float64)
    gamma = sharpness * 1000 / count
    rise, fall = (torch.sigmoid(gamma * (t - share * count)) for share in (low, high))
    weights = rise - fall
    return weights / weights.sum()

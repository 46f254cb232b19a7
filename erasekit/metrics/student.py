"""Quantiles of Student's t, without scipy."""

from __future__ import annotations

import math


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) for T with `df` degrees of freedom (any positive number)."""
    tail = 0.5 * _regularised_beta(df / (df + t * t), df / 2, 0.5)
    return 1 - tail if t > 0 else tail


def t_quantile(probability: float, df: float) -> float:
    """The t with `t_cdf(t, df) == probability`, for probabilities of one half or more."""
    if not 0.5 <= probability < 1:
        raise ValueError(f"the probability is {probability}; give one in [0.5, 1)")
    low, high = 0.0, 1.0
    while t_cdf(high, df) < probability:
        high *= 2
    t = (low + high) / 2
    for _ in range(80):  # Newton's steps, halving the bracket where one would leave it
        error = t_cdf(t, df) - probability
        low, high = (t, high) if error < 0 else (low, t)
        step = t - error / _t_density(t, df)
        before, t = t, step if low < step < high else (low + high) / 2
        if abs(t - before) <= 1e-14 * t:
            break
    return t


def _t_density(t: float, df: float) -> float:
    log_beta = math.lgamma(0.5) + math.lgamma(df / 2) - math.lgamma((df + 1) / 2)
    return math.exp(-(df + 1) / 2 * math.log1p(t * t / df) - log_beta) / math.sqrt(df)


def _regularised_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), by its continued fraction (modified Lentz), as in Numerical Recipes 6.4."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _regularised_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 500):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + numerator * d, tiny)
            c = _away_from_zero(1 + numerator / c, tiny)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction / a


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny

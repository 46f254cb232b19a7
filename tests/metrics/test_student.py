"""Student's t against scipy."""

from __future__ import annotations

import pytest
from scipy import stats

from erasekit.metrics.student import t_cdf, t_quantile


@pytest.mark.parametrize("df", [1, 1.7, 2, 3, 4.4, 10, 38.5, 500])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.975, 0.999])
def test_quantile_agrees_with_scipy(probability: float, df: float) -> None:
    """Old versions of scipy are themselves off by some 1e-9."""
    assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-8)


@pytest.mark.parametrize("t", [-30.0, -1.0, 0.0, 0.3, 2.5, 40.0])
@pytest.mark.parametrize("df", [1, 2.5, 30])
def test_cdf_agrees_with_scipy(t: float, df: float) -> None:
    assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), rel=1e-9)


def test_a_probability_below_one_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.4"):
        t_quantile(0.4, 3)

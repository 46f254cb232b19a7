"""Comparing what two models with the same weights draw."""

from __future__ import annotations

import numpy as np


def assert_drawn_alike(images: np.ndarray, wanted: np.ndarray, atol: float = 1e-5) -> None:
    """The same images: floats within `atol`, 8-bit ones within one level.

    For models that were loaded apart. Equal weights at other addresses need not give equal bits,
    since what a kernel sums together may depend on alignment.
    """
    assert images.shape == wanted.shape
    assert images.dtype == wanted.dtype
    if images.dtype == np.uint8:
        images, wanted, atol = images.astype(np.int16), wanted.astype(np.int16), 1
    np.testing.assert_allclose(images, wanted, rtol=0, atol=atol)

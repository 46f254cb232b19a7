"""What the numbers depend on: here, how many images are drawn at once."""

from __future__ import annotations

import pytest

from erasekit.bench.identity import drawing_batch
from erasekit.bench.prompts import PAGE
from erasekit.testing import tiny_model


@pytest.mark.parametrize(
    ("side", "batch"), [(16, PAGE), (64, 16), (96, 7), (128, 4), (512, 1)], ids=str
)
def test_a_batch_has_the_latents_of_sixteen_of_stable_diffusion_1(
    side: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    monkeypatch.setattr(model.family, "latents_shape", lambda: (4, side, side))
    assert drawing_batch(model) == batch

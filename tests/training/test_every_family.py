"""How passes are carried out changes no family's edit; weights are trained in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.testing import assert_same_tensors, tiny_model, weights
from erasekit.training.erase import erase

FAMILIES = ("sd1", "sd2", "sdxl")
TOLERANCE = 1e-3
"""Of parts and checkpointing: distance of two edits by how far the weights moved."""
HALF_TOLERANCE = {"bf16": 0.5, "fp16": 0.2}
"""Of six steps of Adam, whose first ones follow the gradient's sign."""


def edit(family: str, **settings: Any) -> dict[str, Tensor]:
    """An edit by `gumbel`, whose ascent goes through the UNet too."""
    return erase(tiny_model(family), Erasure.of("church"), "gumbel", settings=settings).tensors


def distance(family: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    base = {name: p.detach() for name, p in tiny_model(family).unet.named_parameters()}
    apart = torch.cat([(found[n] - v).flatten() for n, v in expected.items()]).norm()
    moved = torch.cat([(base[n] - v).flatten() for n, v in expected.items()]).norm()
    return float(apart / moved)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_checkpointing_and_lower_precision_give_nearly_the_edit(family: str) -> None:
    plain = edit(family)
    frugal = edit(family, accumulate=2, gradient_checkpointing=True)
    assert distance(family, frugal, plain) < TOLERANCE
    for precision, tolerance in HALF_TOLERANCE.items():
        half = edit(family, precision=precision)
        assert {value.dtype for value in half.values()} == {torch.float32}
        assert 0 < distance(family, half, plain) < tolerance, precision


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_stored_in_fp16_is_trained_in_fp32_and_left_as_it_was(family: str) -> None:
    model = tiny_model(family)
    model.pipeline.to(torch.float16)
    before = weights(model)
    found = erase(model, Erasure.of("church"), "none", settings={"steps": 2}).tensors
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert_same_tensors(weights(model), before)

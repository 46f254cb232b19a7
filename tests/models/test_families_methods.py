"""Every method works on every family: it erases, within its scope, and leaves the model alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from erasekit.concepts import Erasure
from erasekit.diffusion.sampling import generate
from erasekit.models.loading import load_model
from erasekit.plugin.registry import Registry
from erasekit.testing import assert_same_tensors, weights
from erasekit.testing.tiny import TINY_DEFAULTS
from erasekit.training.erase import erase
from tests.models.conftest import FAMILIES

METHODS = sorted(Registry().methods())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_erases_on_a_family(
    family_folders: dict[str, Path], family: str, method: str
) -> None:
    registry = Registry()
    model = load_model(str(family_folders[family]), registry)
    before = weights(model)
    known = {name for group in _groups(method, registry) for name in group.model_fields}
    settings = {**TINY_DEFAULTS, "steps": 3, "concept_space": "vocabulary", "centres": 4}
    settings = {key: value for key, value in settings.items() if key in known}
    edit = erase(model, Erasure.of("church", "bus"), method, registry=registry, settings=settings)
    assert_same_tensors(weights(model), before)
    losses = [record["loss"] for record in edit.history if record["loss"] is not None]
    assert all(math.isfinite(loss) for loss in losses)
    assert all("attn2" in name for name in edit.tensors)
    assert any(not torch.equal(v, before[f"unet.{n}"]) for n, v in edit.tensors.items())
    plain = generate(model, ["church"], [0], num_inference_steps=2)
    with edit.applied(model):
        changed = generate(model, ["church"], [0], num_inference_steps=2)
    assert changed.shape == plain.shape


def _groups(method: str, registry: Registry) -> tuple[type, ...]:
    from erasekit.training.plan import settings_groups

    return settings_groups(registry.method(method), registry)

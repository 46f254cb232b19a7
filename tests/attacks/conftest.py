"""An erasure to attack, on the tiny model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from erasekit.attacks.base import AttackContext, Target
from erasekit.concepts import Concept, Erasure
from erasekit.edits import Edit
from erasekit.models.loading import LoadedModel
from erasekit.testing import tiny_model

CHURCH = Concept("church", aliases=("garbage truck",))


@pytest.fixture
def model() -> LoadedModel:
    return tiny_model()


@pytest.fixture
def make_context(model: LoadedModel) -> Any:
    """`make_context("a photo", "bus")`: these prompts as targets, random pictures."""

    def do(*prompts: str, edit: Edit | None = None) -> AttackContext:
        latents = torch.randn(len(prompts), *model.family.latents_shape())
        return AttackContext(
            model,
            Erasure((CHURCH,)),
            [Target(CHURCH, prompt, seed) for seed, prompt in enumerate(prompts)],
            0,
            edit,
            (),
            lambda: latents,
            lambda concept, count: latents[:count],
            list(range(len(prompts))),
        )

    return do

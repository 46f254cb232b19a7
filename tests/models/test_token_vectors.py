"""Tokens as vectors: what a search over tokens is given by CLIP's families."""

from __future__ import annotations

import pytest
import torch

from erasekit.testing import tiny_model

PROMPTS = ("a photo of a church", "bus", "", "garbage truck on a road with a red banana apple")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_tokens_and_their_own_vectors_embed_as_the_prompts_do(name: str) -> None:
    family = tiny_model(name).family
    family.truncate = True
    ids = family.token_ids(PROMPTS)
    plain = family.embed_prompts(PROMPTS)
    torch.testing.assert_close(family.embed_tokens(ids), plain)
    free = torch.zeros_like(ids, dtype=torch.bool)
    free[0, 1:3] = free[1, 1] = free[3, 4] = True
    vectors = family.token_table()[ids[free]]
    torch.testing.assert_close(family.embed_tokens(ids, free, vectors), plain)
    ids[free] = 0  # nothing of a free token's id is read
    torch.testing.assert_close(family.embed_tokens(ids, free, vectors), plain)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_the_gradient_reaches_each_vector_from_its_own_row_alone(name: str) -> None:
    family = tiny_model(name).family
    ids = family.token_ids(["a church", "a bus"])
    free = torch.zeros_like(ids, dtype=torch.bool)
    free[:, 1] = True
    vectors = family.token_table()[[3, 4]].requires_grad_()
    direction = torch.randn_like(family.embed_tokens(ids, free, vectors)[0])
    first = (family.embed_tokens(ids, free, vectors)[0] * direction).sum()
    (gradient,) = torch.autograd.grad(first, vectors)
    assert gradient[0].norm() > 0
    assert gradient[1].norm() == 0
    step, along = 1e-2, gradient / gradient.norm()
    with torch.no_grad():
        ends = [
            (family.embed_tokens(ids, free, vectors + sign * step * along)[0] * direction).sum()
            for sign in (1, -1)
        ]
    assert float((ends[0] - ends[1]) / (2 * step)) == pytest.approx(float(gradient.norm()), 0.02)
    assert not family.unet.training
    table = family.text_encoders()[0].get_input_embeddings()
    assert not table._forward_hooks

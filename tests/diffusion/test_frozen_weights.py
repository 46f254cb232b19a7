"""Swapping the frozen weights in, beside a second, deep-copied UNet."""

from __future__ import annotations

import copy

import pytest
import torch

from erasekit.diffusion.scope import FrozenWeights, ParameterScope


@pytest.fixture
def swapped(tiny_model):
    """The tiny model after a change of its weights, its scope, its frozen weights, and a copy."""
    original = copy.deepcopy(tiny_model.unet)
    parameters = ParameterScope("xattn").select(tiny_model.unet)
    frozen = FrozenWeights(tiny_model.unet, parameters)
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(True)
    return tiny_model, parameters, frozen, original


def inputs(model):
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    return latents, torch.tensor([700, 20]), model.family.embed_prompts(["church", "a red bus"])


def run(unet, latents, timesteps, embeds):
    return unet(latents, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]


def test_within_the_block_the_frozen_model_and_after_it_the_trained(swapped) -> None:
    model, _, frozen, original = swapped
    batch = inputs(model)
    trained = copy.deepcopy(model.unet)
    with frozen.swapped():
        within = model.family.predict_noise(*batch)
    assert torch.equal(within, run(original, *batch))
    after = model.family.predict_noise(*batch)
    assert torch.equal(after, run(trained, *batch))
    assert not torch.equal(within, after)
    assert not within.requires_grad
    assert after.requires_grad


def test_a_graph_recorded_before_the_block_keeps_its_gradients(swapped) -> None:
    model, parameters, frozen, _ = swapped
    batch = inputs(model)
    model.family.predict_noise(*batch).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    recorded = model.family.predict_noise(*batch)
    with frozen.swapped():
        target = model.family.predict_noise(*batch)
        assert not target.requires_grad
    recorded.square().mean().backward()
    assert all(torch.equal(p.grad, expected[name]) for name, p in parameters.items())


def test_a_graph_through_the_block_reaches_the_prompt_and_no_weight(swapped) -> None:
    model, parameters, frozen, original = swapped
    latents, timesteps, embeds = inputs(model)
    mine, theirs = (embeds.clone().requires_grad_(True) for _ in range(2))
    with frozen.swapped():
        loss = model.family.predict_noise(latents, timesteps, mine).square().mean()
    loss.backward()
    run(original, latents, timesteps, theirs).square().mean().backward()
    assert torch.equal(mine.grad, theirs.grad)
    assert all(parameter.grad is None for parameter in parameters.values())


def test_parameters_are_the_same_objects_again_even_after_a_fault(swapped) -> None:
    model, _, frozen, _ = swapped
    before = list(model.unet.named_parameters())
    values = [parameter.detach().clone() for _, parameter in before]
    with pytest.raises(RuntimeError, match="a fault"), frozen.swapped():
        raise RuntimeError("a fault")
    after = list(model.unet.named_parameters())
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(a is b for (_, a), (_, b) in zip(after, before, strict=True))
    assert all(torch.equal(p, value) for (_, p), value in zip(after, values, strict=True))


def test_the_block_may_stand_in_itself(swapped) -> None:
    model, _, frozen, original = swapped
    batch = inputs(model)
    with frozen.swapped():
        with frozen.swapped():
            pass
        assert torch.equal(model.family.predict_noise(*batch), run(original, *batch))
    assert not torch.equal(model.family.predict_noise(*batch), run(original, *batch))

"""Sensitivity in noise space: against a loop over words, and the laws it must keep."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erasekit.edits import Edit
from erasekit.errors import ConceptError, ConfigError, EditError
from erasekit.observe.sensitivity import (
    Probes,
    draw_probes,
    fitting_words,
    word_sensitivities,
)
from erasekit.testing import tiny_model as build_tiny_model

WORDS = ["", "church", "castle", "red bus", "a photo", "banana", "zebra"]


@pytest.fixture(scope="module")
def model():
    return build_tiny_model()


@pytest.fixture(scope="module")
def probes(model) -> Probes:
    return draw_probes(model, 3)


def edit_of(model, scale: float) -> Edit:
    """The cross-attention's keys and values, moved by `scale` in a seeded direction."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: p.detach() + scale * torch.randn(p.shape, generator=generator)
        for name, p in model.unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    return Edit(tensors, {"base_model": {"id": "tiny", "hash": model.hash}})


def brute_force(model, edit: Edit, word: str, probes: Probes) -> list[float]:
    """Two whole models, one word, one probe and one element at a time."""
    edited = copy.deepcopy(model.pipeline.unet)
    edited.load_state_dict({**edited.state_dict(), **edit.tensors})
    pipeline = model.pipeline
    tokens = pipeline.tokenizer(
        word, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    prompt_embeds = pipeline.text_encoder(tokens.input_ids)[0]
    values = []
    for z, t in zip(probes.latents, probes.timesteps, strict=True):
        one, other = (
            unet(z[None], t, prompt_embeds, return_dict=False)[0].flatten().tolist()
            for unet in (edited, pipeline.unet)
        )
        values.append(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / len(one))
    return values


def test_it_is_what_a_loop_over_words_gives(model, probes: Probes) -> None:
    edit = edit_of(model, 0.1)
    found = word_sensitivities(model, edit, WORDS, probes, batch_size=4)
    with torch.no_grad():
        expected = np.array([brute_force(model, edit, word, probes) for word in WORDS]).T
    assert found.shape == (3, len(WORDS))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-12)
    assert len(set(found.mean(axis=0).round(12))) == len(WORDS)


def test_an_edit_that_changes_nothing_gives_exactly_zero(model, probes: Probes) -> None:
    assert not word_sensitivities(model, edit_of(model, 0.0), WORDS, probes).any()


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(len(WORDS))), batch_size=st.integers(1, 9))
def test_neither_order_nor_batch_matters(
    model, probes: Probes, order: list[int], batch_size: int
) -> None:
    edit = edit_of(model, 0.1)
    plain = word_sensitivities(model, edit, WORDS, probes)
    shuffled = [WORDS[i] for i in order]
    found = word_sensitivities(model, edit, shuffled, probes, batch_size=batch_size)
    assert found == pytest.approx(plain[:, order], rel=1e-3)


def test_the_model_is_left_as_it_was_and_the_passes_are_counted(model, probes: Probes) -> None:
    before = {name: p.clone() for name, p in model.unet.named_parameters()}
    passes, heard = model.passes.forward, []
    word_sensitivities(
        model, edit_of(model, 1.0), WORDS, probes, batch_size=5, on_words=heard.append
    )
    assert model.passes.forward - passes == 2 * 3 * len(WORDS)
    assert heard == [5, 2]
    assert all(torch.equal(before[name], p) for name, p in model.unet.named_parameters())


def test_probes_lie_on_trajectories_from_noise_to_image(model) -> None:
    probes = draw_probes(model, 7)
    timesteps = probes.timesteps.tolist()
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0:6:2] == timesteps[1:6:2]
    assert len(set(timesteps)) == 4
    assert len({z.sum().item() for z in probes.latents}) == 7
    again = draw_probes(model, 7)
    assert torch.equal(again.latents, probes.latents)
    assert not torch.equal(draw_probes(model, 7, seed=1).latents, probes.latents)
    further_down = draw_probes(model, 1).latents
    assert not torch.equal(further_down[0], probes.latents[0])


@pytest.mark.parametrize("count", [0, 9])
def test_impossible_numbers_of_probes_are_refused(model, count: int) -> None:
    with pytest.raises(ConfigError, match=f"{count} probes"):
        draw_probes(model, count)


def test_words_that_are_too_long_and_other_models_are_refused(model, probes: Probes) -> None:
    edit = edit_of(model, 0.1)
    with pytest.raises(ConceptError, match="tokens long"):
        word_sensitivities(model, edit, ["church " * 20], probes)
    edit.info["base_model"]["hash"] = "0" * 64
    with pytest.raises(EditError):
        word_sensitivities(model, edit, WORDS, probes)
    assert fitting_words(model, ["bus", "church " * 20, "bus", "car"]) == ["bus", "car"]

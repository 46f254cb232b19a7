"""What attacks minimise, against plain torch, transformers and diffusers."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch

from erasekit.attacks.concept_inversion import ConceptInversion, InversionSettings
from erasekit.attacks.p4d import P4D, P4DSettings
from erasekit.attacks.paraphrase import templates
from erasekit.attacks.relearn import Relearn, RelearnSettings
from erasekit.attacks.ring_a_bell import RingABell, RingABellSettings, concept_vector
from erasekit.attacks.token_search import GradientSettings, search_loss
from erasekit.attacks.unlearndiffatk import UnlearnDiffAtk
from erasekit.testing import assert_same_tensors, tiny_edit, weights


def plain_noise(pipeline, ids, latents, timesteps):
    """eps(z_t, tau(ids)) by the pipeline's own modules."""
    hidden = pipeline.text_encoder(ids)[0]
    return pipeline.unet(latents, timesteps, encoder_hidden_states=hidden).sample


@pytest.mark.parametrize("attack", ["unlearndiffatk", "p4d"])
def test_loss_and_gradient_of_a_token_are_those_of_its_row_in_the_embedding(
    attack: str, make_context
) -> None:
    edit = tiny_edit()
    context = make_context("a photo", "bus", edit=edit)
    search = UnlearnDiffAtk(GradientSettings(tokens=2))
    if attack == "p4d":
        search = P4D(P4DSettings(tokens=2), "n")
    plain = copy.deepcopy(context.model.pipeline)
    edited = copy.deepcopy(context.model.pipeline)
    edit.apply(edited, force=True)
    with context.erased():
        slots, tokens = search.begin(context)
        batch = context.clean_latents().draw(torch.tensor([0, 1]), torch.Generator().manual_seed(3))
        (wanted,) = search.wanted(context, [0, 1], [batch])
        leaf = tokens.vectors(torch.Generator().manual_seed(0)).detach().requires_grad_()
        embeds = slots.embed(leaf, [0, 1])
        loss = search_loss(context, batch, embeds, wanted, torch.arange(2))
        loss.backward()
    # the same tokens, each as a row of its own that is appended to the embedding
    embedding = edited.text_encoder.get_input_embeddings()
    first = len(embedding.weight)
    rows = torch.cat([embedding.weight.detach(), leaf.detach()]).requires_grad_()
    embedding.weight = torch.nn.Parameter(rows)
    ids = slots.ids.masked_scatter(slots.free, first + torch.arange(len(slots)))
    eos = plain.tokenizer.eos_token_id
    edited.text_encoder.config.eos_token_id = eos
    noise_pred = plain_noise(edited, ids, batch.latents, batch.timesteps)
    target = batch.noise
    if attack == "p4d":
        names = plain.tokenizer(["church"] * 2, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            target = plain_noise(plain, names, batch.latents, batch.timesteps)
    expected = sum(
        torch.nn.functional.mse_loss(p, t) for p, t in zip(noise_pred, target, strict=True)
    )
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    gradient = embedding.weight.grad[first:]
    assert gradient.norm() > 0
    torch.testing.assert_close(leaf.grad, gradient, rtol=2e-3, atol=1e-7)


def test_timesteps_are_those_of_the_paper_for_fifty_pictures(make_context) -> None:
    attack, context = UnlearnDiffAtk(GradientSettings(pictures=50)), make_context("bus")
    assert [attack.timestep(context, n) for n in (0, 1, 49)] == [10, 30, 990]
    assert UnlearnDiffAtk.Config().steps * 50 == 2000
    assert P4D.Config().steps * 50 == 3000


def test_the_concept_vector_is_the_mean_difference_of_hidden_states(make_context) -> None:
    context = make_context("bus")
    concept = context.targets[0].concept
    pipeline = context.model.pipeline

    def hidden(text: str) -> torch.Tensor:
        ids = pipeline.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        return pipeline.text_encoder(ids)[0][0]

    every = ["{}", *templates(concept)]
    fitting = [t for t in every if context.family.token_count(t.format("church")) <= 16]
    assert len(fitting) > 5
    pairs = [hidden(t.format("church")) - hidden(" ".join(t.format("").split())) for t in fitting]
    expected = torch.stack(pairs).mean(dim=0)
    torch.testing.assert_close(concept_vector(context, concept), expected, rtol=1e-4, atol=1e-5)


def test_ring_a_bell_comes_nearer_than_random_tokens_and_gives_the_best_first(make_context) -> None:
    context = make_context("bus", "bus")
    settings = RingABellSettings(tokens=4, population=20, generations=20, pictures=3)
    attack = RingABell(settings)
    rounds = list(attack.rounds(context))
    assert len(rounds) == 3
    assert rounds[0][0].prompt == rounds[0][1].prompt  # one search for the same prompt
    assert len({one[0].prompt for one in rounds}) == 3
    assert 200 < context.text_passes <= 20 * 20
    wanted = context.family.embed_prompts(["bus"])[0]
    wanted = wanted + 3 * concept_vector(context, context.targets[0].concept)
    found = [
        float((context.family.embed_prompts([one[0].prompt])[0] - wanted).square().sum())
        for one in rounds
    ]
    assert found == sorted(found)
    random = list(RingABell(settings.model_copy(update={"generations": 1})).rounds(context))
    start = float((context.family.embed_prompts([random[0][0].prompt])[0] - wanted).square().sum())
    assert found[0] < 0.9 * start


def test_inversion_lowers_the_loss_of_its_vector_alone(make_context) -> None:
    context = make_context("church", edit=tiny_edit())
    before = weights(context.model)
    settings = InversionSettings(pictures=2, steps=30, learning_rate=0.05, batch_size=4, images=1)

    def loss(embeds: torch.Tensor) -> float:
        rows = torch.zeros(32).long()
        batch = context.clean_latents().draw(rows, torch.Generator().manual_seed(9))
        with torch.no_grad():
            found = context.family.predict_noise(
                batch.latents, batch.timesteps, embeds.expand(32, -1, -1)
            )
        return float((found - batch.noise).square().mean())

    with context.erased():
        first, last = (one[0].prompt_embeds for one in ConceptInversion(settings).rounds(context))
        losses = [loss(first[None]), loss(last[None])]
        assert losses[1] < losses[0]
    assert_same_tensors(weights(context.model), before)


def test_relearning_lowers_the_loss_and_puts_the_weights_back(
    make_context,
) -> None:
    context = make_context("church", edit=tiny_edit())
    before = weights(context.model)
    settings = RelearnSettings(pictures=5, steps=20, learning_rate=3e-3, batch_size=8, images=1)
    batch = context.clean_latents().draw(torch.zeros(32).long(), torch.Generator().manual_seed(9))
    embeds = context.family.embed_prompts(["church"]).expand(32, -1, -1)

    def loss() -> float:
        with torch.no_grad():
            found = context.family.predict_noise(batch.latents, batch.timesteps, embeds)
        return float((found - batch.noise).square().mean())

    with context.erased():
        start = loss()
        rounds = Relearn(settings).rounds(context)
        assert inspect.isgenerator(rounds)
        next(rounds)
        next(rounds)
        assert loss() < start
        rounds.close()
        assert loss() == start
    assert_same_tensors(weights(context.model), before)

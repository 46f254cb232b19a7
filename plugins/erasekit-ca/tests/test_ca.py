"""Concept ablation: all that erasekit asks of a method, and its objectives written out."""

from __future__ import annotations

import pytest
import torch

from erasekit.concepts import Erasure
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConceptError, ConfigError
from erasekit.testing import MethodTester, Prepared, prepared, tiny_model
from erasekit.testing.tiny import WORDS
from erasekit.training.plan import plan_erasure
from erasekit_ca import hooks

QUICK = {"images": 4, "sampling_steps": 4}
TRAINED = {**QUICK, "anchor": "road", "steps": 6, "learning_rate": 1e-3, "keep_weight": 1e-4}
"""Little regularisation: a random model has all of the diffusion loss still to learn."""


class TestModelBased(MethodTester):
    """Every test of `MethodTester`."""

    method = "ca"
    plugins = (hooks,)
    settings = TRAINED


class TestNoiseBased(MethodTester):
    """On all parameters and faster: keys and values alone teach a random model little noise."""

    method = "ca"
    plugins = (hooks,)
    settings = {  # noqa: RUF012
        **TRAINED,
        "objective": "noise",
        "scope": "full",
        "learning_rate": 3e-3,
    }


def ca(*concepts: str, **options) -> Prepared:
    return prepared("ca", *concepts, plugins=(hooks,), **{**QUICK, "anchor": "road", **options})


def mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mean((a - b) ** 2)


def noise_in(task: Prepared, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The noise of each row, from the image it must have been made of: the nearest to z_t.

    eps = (z_t - sqrt(abar_t) z_0) / sqrt(1 - abar_t), with the schedule written out.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, dim=0)[timesteps].to(latents)
    images = torch.cat([source.latents for source in task.method.sources])
    rows = []
    for z, a in zip(latents, abar, strict=True):
        noises = (z - a.sqrt() * images) / (1 - a).sqrt()
        rows.append(noises[noises.flatten(1).square().mean(dim=1).sub(1).abs().argmin()])
    return torch.stack(rows)


@pytest.mark.parametrize("anchor_from", ["frozen", "current"])
@pytest.mark.parametrize("keep_weight", [0.0, 0.7])
@pytest.mark.parametrize("objective", ["model", "noise"])
def test_loss_and_gradient_of_a_step(objective: str, keep_weight: float, anchor_from: str) -> None:
    """|| eps'(z_t, c*) - target ||^2 + lambda || eps'(z_t, c) - eps ||^2"""
    task = ca(
        "church",
        objective=objective,
        keep_weight=keep_weight,
        anchor_from=anchor_from,
        batch_size=3,
    )
    images, drawn = task.method.sources[0], []
    draw = images.draw

    def told(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    images.draw = told
    output = task.method.training_step(2)
    z = torch.cat([d.latents for d in drawn])
    t = torch.cat([d.timesteps for d in drawn])
    eps = torch.cat([d.noise for d in drawn])
    target_prompt, anchor_prompt = (task.embed(c).expand(3, -1, -1) for c in ("church", "road"))
    target = eps[:3]
    if objective == "model":
        asked = task.frozen_noise if anchor_from == "frozen" else task.trained_noise
        with torch.no_grad():
            target = asked(z[:3], t[:3], anchor_prompt)
    expected = mse(task.trained_noise(z[:3], t[:3], target_prompt), target)
    assert output.record["erase_loss"] == pytest.approx(expected.item(), rel=1e-3)
    assert output.record["timestep"] == t[:3].tolist()
    if keep_weight:
        kept = mse(task.trained_noise(z[3:], t[3:], anchor_prompt), eps[3:])
        assert output.record["preserve_loss"] == pytest.approx(kept.item(), rel=1e-3)
        expected = expected + keep_weight * kept
    else:
        assert len(z) == 3
    task.assert_gradient(output.loss, expected)


def test_rows_are_noised_images_of_their_own_anchor() -> None:
    """Each pass is on z_t of an image drawn for the anchor; its noise is standard normal."""
    task = ca("church", "bus", anchor="road, car", batch_size=32, objective="model")
    task.method.training_step(0)
    frozen, outer = task.passes[-2], task.passes[-1]
    assert (frozen.differentiable, outer.differentiable) == (False, True)
    assert torch.equal(frozen.latents, outer.latents[:32])
    anchors, targets = task.embed("road", "car"), task.embed("church", "bus")
    assert torch.equal(frozen.prompt_embeds, anchors[torch.arange(32) % 2])
    assert torch.equal(outer.prompt_embeds[:32], targets[torch.arange(32) % 2])
    assert torch.equal(outer.prompt_embeds[32:], anchors[torch.arange(32) % 2])
    noise = noise_in(task, outer.latents, outer.timesteps)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_each_image_is_learnt_with_its_own_prompt() -> None:
    task = ca("church", prompts="{}|a photo of {}", batch_size=24, images=6)
    source = task.method.sources[0]
    assert source.prompts.tolist() == [0, 1, 0, 1, 0, 1]
    task.method.training_step(0)
    frozen, outer = task.passes[-2], task.passes[-1]
    anchors, targets = (
        task.embed("road", "a photo of road"),
        task.embed("church", "a photo of church"),
    )
    which = [next(i for i in (0, 1) if torch.equal(e, anchors[i])) for e in frozen.prompt_embeds]
    assert set(which) == {0, 1}
    assert torch.equal(outer.prompt_embeds[:24], targets[which])
    late = frozen.timesteps < 100  # so little noise that z_t is nearest to its own image
    assert bool(late.any())
    for z, prompt in zip(frozen.latents[late], torch.tensor(which)[late], strict=True):
        nearest = (source.latents - z).flatten(1).norm(dim=1).argmin()
        assert source.prompts[nearest] == prompt


def test_an_anchor_is_a_fixed_point_of_itself() -> None:
    """Before training, the loss is what the two prompts differ by: 0 for equal embeddings."""
    task = ca("church", keep_weight=0.0, move=0.0, batch_size=4)
    assert task.method.training_step(0).loss.item() > 1e-6
    task.method.target_embeds = task.method.anchor_embeds
    assert task.method.training_step(0).loss.item() == pytest.approx(0.0, abs=1e-12)


def test_the_neutral_concept_is_the_anchor_where_none_is_set() -> None:
    task = ca("church", anchor="", neutral="car")
    assert torch.equal(task.method.anchor_embeds[0], task.embed("car"))


def test_else_each_concept_has_its_nearest_word_of_the_concept_space() -> None:
    task = ca("church", "bus", anchor="")
    family = tiny_model().family
    words = [word for word in WORDS if word not in ("church", "bus")]
    cosines = torch.nn.functional.cosine_similarity(
        family.word_features(["church", "bus"])[:, None], family.word_features(words)[None], dim=-1
    )
    nearest = [words[int(i)] for i in cosines.argmax(dim=1)]
    assert [pairs[0].anchor for pairs in task.method.pairs] == nearest
    assert torch.equal(task.method.anchor_embeds[:, 0], task.embed(*nearest))


def test_the_scope_is_keys_and_values_unless_another_is_asked_for() -> None:
    class Run(MethodTester):
        method = "ca"
        plugins = (hooks,)
        settings = {**QUICK, "anchor": "road", "steps": 1}  # noqa: RUF012

    model = tiny_model()
    strict = ParameterScope("xattn-kv").select(model.unet)
    assert list(Run().erase(model).tensors) == list(strict)


@pytest.mark.parametrize("objective", ["model", "noise"])
@pytest.mark.parametrize("keep_weight", [0.0, 1.0])
def test_the_expected_passes_are_those_that_are_counted(objective: str, keep_weight: float) -> None:
    class Run(MethodTester):
        method = "ca"
        plugins = (hooks,)
        settings = TRAINED

    edit = Run().erase(
        tiny_model(), concepts=("church", "bus"), objective=objective, keep_weight=keep_weight
    )
    passes = edit.info["unet_passes"]
    settings = {**TRAINED, "objective": objective, "keep_weight": keep_weight}
    erasure, registry = Erasure.of("church", "bus"), Run().registry()
    plan = plan_erasure(tiny_model(), erasure, "ca", settings, registry=registry)
    expected = plan.expected_passes()
    assert passes["forward"] + 2 * passes["backward"] == expected


def test_what_can_not_be_done_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="anchor 'red church' names what is erased"):
        ca("church", anchor="red church")
    with pytest.raises(ConfigError, match="anchor='a,b' should be one value, or 3 separated"):
        ca("church", "bus", "car", anchor="a,b")
    with pytest.raises(ConfigError, match="drop --keep"):
        ca("church", keep=("car",))
    with pytest.raises(ConceptError, match="tokens long"):
        ca("church", anchor="a very long text of many letters")

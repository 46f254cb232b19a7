"""ESD: all that erasekit asks of a method, and its objective beside the formula written out."""

from __future__ import annotations

import pytest
import torch

from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConceptError, ConfigError
from erasekit.testing import MethodTester, Prepared, prepared, tiny_model
from erasekit_esd import hooks


class TestESD(MethodTester):
    """Every test of `MethodTester`, with z_t from the model being trained."""

    method = "esd"
    plugins = (hooks,)


class TestESDOnFrozenTrajectories(MethodTester):
    method = "esd-x"
    plugins = (hooks,)
    settings = {"latents_from": "frozen"}  # noqa: RUF012


class TestESDFrom(MethodTester):
    method = "esd"
    plugins = (hooks,)
    settings = {"erase_from": "a photo of a road"}  # noqa: RUF012


def esd(*concepts: str, **options) -> Prepared:
    return prepared("esd", *concepts, plugins=(hooks,), **options)


def mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mean((a - b) ** 2)


@pytest.mark.parametrize("latents_from", ["current", "frozen"])
@pytest.mark.parametrize("neutral", ["", "a photo"])
@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_loss_and_gradient_of_a_step(eta: float, neutral: str, latents_from: str) -> None:
    task = esd(
        *("church", "banana"),
        neutral=neutral,
        negative_guidance=eta,
        latents_from=latents_from,
        batch_size=3,
    )
    output = task.method.training_step(2)
    z, t, c = (task.outer_pass.latents, task.outer_pass.timesteps, task.outer_pass.prompt_embeds)
    erased = task.embed("church", "banana")
    assert len(c) == 3
    assert all(any(torch.equal(row, e) for e in erased) for row in c)
    with torch.no_grad():
        eps_n = task.frozen_noise(z, t, task.embed(neutral).expand(3, -1, -1))
        target = eps_n - eta * (task.frozen_noise(z, t, c) - eps_n)
    task.assert_gradient(output.loss, mse(task.trained_noise(z, t, c), target))
    assert output.record["erase_loss"] == pytest.approx(output.loss.item())
    assert output.record["timestep"] == t.tolist()


@pytest.mark.parametrize("latents_from", ["current", "frozen"])
@pytest.mark.parametrize("neutral", ["", "a photo"])
def test_loss_and_gradient_where_one_concept_is_erased_from_another(
    neutral: str, latents_from: str
) -> None:
    """eps'(c_from) is led to eps(c_from) - eta (eps(c_e) - eps(c_n)), on z_t of c_from."""
    task = esd(
        *("church", "banana"),
        neutral=neutral,
        erase_from="road, car",
        negative_guidance=1.5,
        latents_from=latents_from,
        batch_size=4,
    )
    output = task.method.training_step(1)
    z, t, c = (task.outer_pass.latents, task.outer_pass.timesteps, task.outer_pass.prompt_embeds)
    sources = task.embed("road", "car")
    rows = torch.tensor([next(i for i in (0, 1) if torch.equal(row, sources[i])) for row in c])
    assert sorted(rows.tolist()) == [0, 0, 1, 1]
    with torch.no_grad():
        eps_e = task.frozen_noise(z, t, task.embed("church", "banana")[rows])
        eps_n = task.frozen_noise(z, t, task.embed(neutral).expand(4, -1, -1))
        target = task.frozen_noise(z, t, c) - 1.5 * (eps_e - eps_n)
    task.assert_gradient(output.loss, mse(task.trained_noise(z, t, c), target))


def test_latents_are_sampled_from_the_model_being_trained() -> None:
    """The same draw at two theta' gives other z_t; from frozen trajectories it does not."""
    moved = {}
    for latents_from in ("current", "frozen"):
        task = esd("church", latents_from=latents_from, batch_size=4, move=0.0)
        first = task.method.training_step(3)
        z = task.outer_pass.latents
        task.move(0.1)
        again = task.method.training_step(3)
        assert again.record["timestep"] == first.record["timestep"]
        moved[latents_from] = float((task.outer_pass.latents - z).abs().max())
    assert first.record["timestep"][0] < 999, "z_T is noise, whatever the weights"
    assert moved["frozen"] == 0.0
    assert moved["current"] > 1e-3


def test_before_training_the_loss_goes_as_one_plus_eta_squared() -> None:
    """At theta' = theta the error is (1 + eta) (eps(c_e) - eps(c_n)): a law of the target."""
    losses = [
        esd("church", negative_guidance=eta, batch_size=4, move=0.0)
        .method.training_step(1)
        .loss.item()
        for eta in (0.0, 1.0, 3.0)
    ]
    assert losses[0] > 0
    assert losses[1] == pytest.approx(4 * losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(16 * losses[0], rel=1e-3)


def test_erasing_from_another_concept_asks_for_eta_times_the_direction() -> None:
    """At theta' = theta the error is eta (eps(c_e) - eps(c_n)) alone, so it goes as eta^2."""
    losses = [
        esd("church", erase_from="road", negative_guidance=eta, batch_size=4, move=0.0)
        .method.training_step(1)
        .loss.item()
        for eta in (0.0, 1.0, 3.0)
    ]
    assert losses[0] == pytest.approx(0.0, abs=1e-10)
    assert losses[2] == pytest.approx(9 * losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        ("esd-x", "xattn"),
        ("esd-x-strict", "xattn-kv"),
        ("esd-u", "noxattn"),
        ("esd-self", "selfattn"),
        ("esd-all", "full"),
    ],
)
def test_variants_train_their_own_parameters(method: str, scope: str) -> None:
    class Run(MethodTester):
        plugins = (hooks,)

    Run.method = method
    model = tiny_model()
    edit = Run().erase(model, steps=1)
    assert edit.info["config"]["scope"] == scope
    assert list(edit.tensors) == list(ParameterScope(scope).select(model.unet))


def test_what_esd_can_not_do_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="ESD keeps nothing on purpose; drop --keep"):
        esd("church", keep=("road",))
    with pytest.raises(ConfigError, match="'church' can't be erased from itself"):
        esd("church", erase_from="Church")
    with pytest.raises(ConfigError, match="erase_from='a,b' should be one value, or 3 separated"):
        esd("church", "bus", "car", erase_from="a,b")
    with pytest.raises(ConceptError, match="tokens long"):
        esd("church", erase_from="a very long text of many letters")

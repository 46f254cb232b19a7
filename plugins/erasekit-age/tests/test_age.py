"""AGE: all that erasekit asks of a method, and its objective and ascent written out."""

from __future__ import annotations

import math

import pytest
import torch

from erasekit.errors import ConfigError
from erasekit.testing import WORDS, MethodTester, Prepared, StrategyTester, prepared
from erasekit_age import hooks


class TestAGE(MethodTester):
    """Every test of `MethodTester`."""

    method = "age"
    plugins = (hooks,)


class TestAGEHardAndExact(MethodTester):
    method = "age"
    plugins = (hooks,)
    settings = {"hard": True, "exact_gradient": True}  # noqa: RUF012


class TestMixture(StrategyTester):
    """The strategy beside the built-in erase term."""

    strategy = "age-mixture"
    plugins = (hooks,)


def age(*concepts: str, **options) -> Prepared:
    return prepared("age", *concepts, plugins=(hooks,), **options)


def mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mean((a - b) ** 2)


def set_pi(task: Prepared, spread: float = 1.0, seed: int = 3) -> torch.Tensor:
    pi = task.strategy.pi
    with torch.no_grad():
        pi.copy_(spread * torch.randn(pi.shape, generator=torch.Generator().manual_seed(seed)))
    return pi


def weights_of(task: Prepared, concepts: torch.Tensor, purpose: str, step: int, top: int):
    """y as the docstring has it, from the generator's first numbers; differentiable in pi."""
    shape = (len(concepts), task.strategy.pi.shape[1])
    uniform = torch.rand(shape, generator=task.context.generator(step, purpose))
    noise = -torch.log(-torch.log(uniform.double())).float()
    y = torch.softmax((task.strategy.pi[concepts] + noise) / task.strategy.config.temperature, 1)
    rows = []
    for row in y:
        order = row.detach().argsort(descending=True)[:top]
        rows.append(
            torch.stack([row[k] if k in order else row.new_zeros(()) for k in range(len(row))])
        )
    chosen = torch.stack(rows)
    return chosen / chosen.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("hard", [False, True])
def test_loss_and_gradient_of_a_step(hard: bool, guidance: float) -> None:
    task = age(
        *("church", "bus"),
        hard=hard,
        negative_guidance=guidance,
        keep_weight=0.7,
        batch_size=3,
        ascent_steps=0,
    )
    set_pi(task)
    output = task.method.training_step(4)
    outer = task.outer_pass
    z, t, c = outer.latents, outer.timesteps, outer.prompt_embeds
    concepts = task.strategy.concepts
    assert torch.equal(c[:3], task.embed("church", "bus")[concepts])
    y = weights_of(task, concepts, "keep", 4, 1 if hard else 5).detach()
    if hard:
        y = (y > 0).float()
    c_t = torch.einsum("bk,kld->bld", y, task.embed(*task.strategy.space.words))
    torch.testing.assert_close(c[3:], c_t, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        eps_t = task.frozen_noise(z[:3], t[:3], c_t)
        target = eps_t - guidance * (task.frozen_noise(z[:3], t[:3], c[:3]) - eps_t)
        kept = task.frozen_noise(z[3:], t[3:], c_t)
    trained = task.trained_noise(z, t, c)
    erase_loss, preserve_loss = mse(trained[:3], target), mse(trained[3:], kept)
    assert output.record["erase_loss"] == pytest.approx(erase_loss.item(), rel=1e-3)
    assert output.record["preserve_loss"] == pytest.approx(preserve_loss.item(), rel=1e-3)
    task.assert_gradient(output.loss, erase_loss + 0.7 * preserve_loss)


@pytest.mark.parametrize("exact", [False, True])
def test_pi_ascends_on_the_objective(exact: bool) -> None:
    """Adam's first step is the rate times the gradient's sign, so the gradient is compared."""
    task = age("church", "bus", exact_gradient=exact, keep_weight=0.7, batch_size=4, ascent_lr=0.1)
    pi = set_pi(task)
    before = pi.detach().clone()
    batch = task.method.erased_batch(2)
    task.strategy.ascend(batch)
    found = pi.grad.clone()
    inner = task.outer_pass if not exact else task.passes[0]
    with torch.no_grad():
        pi.copy_(before)
    y = weights_of(task, batch.concepts, "ascend 0", 2, top=5)
    c_t = torch.einsum("bk,kld->bld", y, task.embed(*task.strategy.space.words))
    z, t = inner.latents, inner.timesteps
    if exact:
        kept = task.frozen_noise(z, t, c_t)
        asked = task.trained_noise(batch.latents, batch.timesteps, batch.prompt_embeds).detach()
        apart = mse(asked, task.frozen_noise(batch.latents, batch.timesteps, c_t))
    else:
        kept, apart = task.frozen_noise(z, t, c_t.detach()).detach(), 0.0
    gain = apart + 0.7 * mse(task.trained_noise(z, t, c_t), kept)
    (expected,) = torch.autograd.grad(gain, pi)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-3 * float(expected.abs().max()))


def test_pi_moves_up_the_gain() -> None:
    task = age("church", "bus", ascent_lr=0.1, batch_size=4)
    before = task.strategy.pi.detach().clone()
    task.strategy.ascend(task.method.erased_batch(1))
    moved = task.strategy.pi.detach() - before
    gradient = task.strategy.pi.grad
    large = gradient.abs() > 1e-6
    assert bool(large.any())
    assert torch.equal(moved[large].sign(), gradient[large].sign())


@pytest.mark.parametrize("top", [1, 3, 5, 1000])
def test_a_mixture_has_at_most_top_words_and_sums_to_one(top: int) -> None:
    task = age("church", top=top)
    set_pi(task)
    with torch.no_grad():
        y = task.strategy.draw(
            torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0)
        )
    words = len(task.strategy.space)
    assert torch.equal((y > 0).sum(dim=1), torch.full((200,), min(top, words)))
    torch.testing.assert_close(y.sum(dim=1), torch.ones(200))


def test_mixtures_are_drawn_as_pi_has_them() -> None:
    """The largest weight is a draw from softmax(pi), whatever the temperature and `top`."""
    task = age("church", top=3, temperature=5.0)
    pi = set_pi(task)
    with torch.no_grad():
        y = task.strategy.draw(
            torch.zeros(20_000, dtype=torch.int64), torch.Generator().manual_seed(1)
        )
    share = torch.bincount(y.argmax(dim=1), minlength=y.shape[1]) / 20_000
    torch.testing.assert_close(share, pi[0].detach().softmax(dim=0), rtol=0.0, atol=0.015)


def test_the_target_is_never_the_erased_concept() -> None:
    task = age("church", "bus", batch_size=8)
    words = set(task.strategy.space.words)
    assert words <= set(WORDS)
    assert not {"church", "bus"} & words
    for row in task.method.training_step(0).record["adversary"]:
        assert set(row["concept"].split(", ")) <= words
        assert row["entropy"] == pytest.approx(math.log(len(words)), rel=1e-2)


def test_the_words_to_keep_are_what_is_searched() -> None:
    task = age("church", keep=("car", "road", "apple"))
    assert sorted(task.strategy.space.words) == ["apple", "car", "road"]


def test_a_neutral_concept_is_refused() -> None:
    with pytest.raises(ConfigError, match="no use for --neutral 'a photo'; drop that"):
        age("church", neutral="a photo")


def test_a_shared_ascent_with_the_exact_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match="set one of them to false"):
        age("church", shared_ascent=True, exact_gradient=True)


def test_several_kept_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep_rows is 2"):
        age("church", keep_rows=2)

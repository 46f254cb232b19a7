"""The Gumbel search: its distribution, its gradient, its ascent."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from tests.methods.tasks import Task, prepared


def gumbel_noise(task: Task, purpose: str, shape: tuple[int, ...], step: int = 0) -> Tensor:
    """The noise that a draw of this step has: -log(-log(u)), u the generator's first numbers."""
    uniform = torch.rand(shape, generator=task.context.generator(step, purpose))
    return -torch.log(-torch.log(uniform.double())).to(task.strategy.pi)


def set_pi(task: Task, spread: float = 1.0, seed: int = 3) -> Tensor:
    pi = task.strategy.pi
    with torch.no_grad():
        pi.copy_(spread * torch.randn(pi.shape, generator=torch.Generator().manual_seed(seed)))
    return pi


def own_passes(*concepts: str, **settings: Any) -> Task:
    """`gumbel` whose pi has passes of its own."""
    return prepared("gumbel", *concepts, shared_ascent=False, **settings)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
def test_words_are_drawn_as_softmax_of_pi_whatever_the_temperature(temperature: float) -> None:
    """argmax of logits plus Gumbel noise: the Gumbel-max trick."""
    task = prepared("gumbel", "church", "bus", temperature=temperature, keep_trajectories=1)
    pi = set_pi(task)
    rows = 20_000
    for e in range(2):
        generator = torch.Generator().manual_seed(e)
        with torch.no_grad():
            y = task.strategy.draw(torch.full((rows,), e), generator)
        assert torch.equal(y.sum(dim=1), torch.ones(rows))
        assert set(y.unique().tolist()) == {0.0, 1.0}
        expected = rows * torch.softmax(pi[e].detach().double(), dim=0)
        assert chisquare(y.double().sum(0).numpy(), expected.numpy()).pvalue > 1e-3


def test_the_temperature_falls_by_the_step() -> None:
    """A soft draw at step 3 is that of T times the cube of the decay; T has a floor."""
    task = prepared("gumbel", hard=False, temperature=4.0, temperature_decay=0.5, batch_size=1)
    pi = set_pi(task)
    batch = task.method.erased_batch(3)
    task.strategy.ascend(batch)
    y = task.strategy.draw(batch.concepts, task.context.generator(3, "keep"))
    noise = gumbel_noise(task, "keep", (1, pi.shape[1]), step=3)
    torch.testing.assert_close(y, torch.softmax((pi + noise) / 0.5, dim=1))
    task.strategy.ascend(task.method.erased_batch(5000))
    assert task.strategy.temperature == 1e-3
    cold = prepared("gumbel", temperature=1e-4, batch_size=1)
    cold.strategy.ascend(cold.method.erased_batch(0))
    assert cold.strategy.temperature == 1e-4


def test_at_the_start_all_words_are_alike() -> None:
    task = prepared("gumbel", "church", "bus")
    assert torch.equal(task.strategy.pi, torch.zeros_like(task.strategy.pi))
    for row in task.strategy.describe():
        assert row["entropy"] == pytest.approx(math.log(len(task.strategy.space)), rel=1e-5)
        assert row["shift"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("space", ["epsilon", "z0"])
def test_the_straight_through_gradient_of_pi(space: str) -> None:
    """Written out: d L2 / d pi = J_softmax((pi + G) / T) / T times d L2 / d y, y at its word.

    The frozen prediction and z_t are constants, as published.
    """
    settings = {"temperature": 1.5, "batch_size": 6, "ascent_lr": 1e-2}
    task = own_passes("church", "bus", loss_space=space, **settings)
    pi = set_pi(task)
    before = pi.detach().clone()
    batch = task.method.erased_batch(1)
    task.strategy.ascend(batch)
    asked = task.passes[-1]
    noise = gumbel_noise(task, "ascend 0", (6, pi.shape[1]), step=1)
    logits = before[batch.concepts] + noise
    words = logits.argmax(dim=1)
    embeds = task.strategy.space.prompt_embeds
    torch.testing.assert_close(asked.prompt_embeds, embeds[words])

    c_a = embeds[words].clone().requires_grad_(True)
    with torch.no_grad():
        frozen = task.frozen_noise(asked.latents, asked.timesteps, embeds[words])
    trained = task.trained_noise(asked.latents, asked.timesteps, c_a)
    errors = ((trained - frozen) ** 2).flatten(1).mean(1)
    if space == "z0":
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        abar = torch.cumprod(1 - betas, 0)[asked.timesteps].float()
        errors = errors * (1 - abar) / abar
    (at_embeds,) = torch.autograd.grad(errors.mean(), c_a)
    expected = torch.zeros_like(before)
    for b, e in enumerate(batch.concepts.tolist()):
        at_y = torch.stack([(at_embeds[b] * r).sum() for r in embeds])
        soft = torch.softmax(logits[b] / 1.5, dim=0)
        jacobian = torch.diag(soft) - torch.outer(soft, soft)
        expected[e] += jacobian @ at_y / 1.5
    assert expected.abs().max() > 0
    scale = float(expected.abs().max())
    torch.testing.assert_close(pi.grad, expected, rtol=1e-2, atol=2e-3 * scale)
    # Adam's first step is the learning rate in the direction of the gradient: ascent.
    clear = expected.abs() > 0.01 * scale
    moved = (pi.detach() - before)[clear]
    torch.testing.assert_close(moved, 1e-2 * expected.sign()[clear], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_the_soft_gradient_is_that_of_finite_differences(exact: bool) -> None:
    """In float64. Detached: the frozen prediction is a constant; exact: it moves with c_a."""
    task = own_passes(temperature=1.0, batch_size=2, hard=False, exact_gradient=exact)
    task.strategy.source.sample_all()  # in float32
    task.model.pipeline.to(torch.float64)
    task.frozen.double()
    strategy = task.strategy
    embeds = strategy.space.prompt_embeds.double()
    pi = set_pi(task, spread=0.5)
    batch = task.method.erased_batch(1)
    noise = gumbel_noise(task, "ascend 0", (2, pi.shape[1]), step=1).double()
    start = pi.detach().double().clone()

    def mixture(at: Tensor) -> Tensor:
        y = torch.softmax(at[batch.concepts] + noise, dim=1)
        return torch.einsum("bk,kld->bld", y, embeds)

    likeliest = torch.softmax(start[batch.concepts] + noise, dim=1).argmax(dim=1)
    generator = task.context.generator(1, "ascend 0")
    torch.rand((2, pi.shape[1]), generator=generator)
    drawn = strategy.source.draw(likeliest, generator)
    z, t = drawn.latents.double(), drawn.timesteps

    def gain(at: Tensor, target_at: Tensor) -> float:
        with torch.no_grad():
            trained = task.trained_noise(z, t, mixture(at))
            frozen = task.frozen_noise(z, t, mixture(target_at))
        return ((trained - frozen) ** 2).mean().item()

    expected = torch.zeros_like(start)
    h = 1e-5
    for k in range(start.shape[1]):
        up, down = start.clone(), start.clone()
        up[0, k] += h
        down[0, k] -= h
        high = gain(up, up if exact else start)
        low = gain(down, down if exact else start)
        expected[0, k] = (high - low) / (2 * h)
    task.model.pipeline.to(torch.float32)
    task.frozen.float()
    strategy.ascend(batch)
    scale = float(expected.abs().max())
    torch.testing.assert_close(pi.grad.double(), expected, rtol=2e-2, atol=1e-2 * scale)


def test_soft_rows_are_kept_where_the_frozen_model_predicts_for_the_mixture() -> None:
    task = prepared("gumbel", hard=False, batch_size=3)
    set_pi(task)
    output = task.method.training_step(0)
    last = task.passes[-1]
    embeds = task.strategy.space.prompt_embeds
    noise = gumbel_noise(task, "keep", (3, len(embeds)))
    y = torch.softmax((task.strategy.pi.detach()[[0, 0, 0]] + noise) / 2.0, dim=1)
    torch.testing.assert_close(
        last.prompt_embeds[3:], torch.einsum("bk,kld->bld", y, embeds), rtol=1e-4, atol=1e-5
    )
    with torch.no_grad():
        trained = task.trained_noise(last.latents, last.timesteps, last.prompt_embeds)[3:]
        frozen = task.frozen_noise(last.latents, last.timesteps, last.prompt_embeds)[3:]
    expected = ((trained - frozen) ** 2).mean().item()
    assert output.record["preserve_loss"] == pytest.approx(expected, rel=1e-3)


def test_ascent_leaves_no_gradient_on_the_weights() -> None:
    task = own_passes(exact_gradient=True, ascent_steps=2)
    task.strategy.ascend(task.method.erased_batch(1))
    assert all(p.grad is None for p in task.model.unet.parameters())


def test_pi_climbs_l2() -> None:
    """At a theta' that stands still, pi moves to words that are harmed more than the mean."""
    task = own_passes(
        "church",
        hard=False,
        temperature=1.0,
        ascent_lr=0.2,
        exact_gradient=True,
        batch_size=8,
        keep_trajectories=2,
    )
    strategy, space = task.strategy, task.strategy.space
    rows = torch.arange(len(space)).repeat_interleave(16)
    drawn = strategy.source.draw(rows, torch.Generator().manual_seed(1))
    c = space.prompt_embeds[rows]
    with torch.no_grad():
        trained = task.trained_noise(drawn.latents, drawn.timesteps, c)
        frozen = task.frozen_noise(drawn.latents, drawn.timesteps, c)
    harm = ((trained - frozen) ** 2).flatten(1).mean(1).reshape(len(space), 16).mean(1)
    for step in range(25):
        strategy.ascend(task.method.erased_batch(step))
    weights = strategy.pi.detach()[0].softmax(dim=0)
    assert float(weights @ harm) > float(harm.mean())
    (row,) = strategy.describe()
    assert row["nearest"] == space.words[int(weights.argmax())]
    entropy = -float((weights * weights.log()).sum())
    assert row["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert row["entropy"] < math.log(len(space))
    start = space.prompt_embeds.mean(0)
    now = torch.einsum("k,kld->ld", weights, space.prompt_embeds)
    assert row["shift"] == pytest.approx(float((now - start).norm() / start.norm()), rel=1e-3)


def test_each_erased_concept_has_its_own_pi() -> None:
    task = own_passes("church", "bus", batch_size=4)
    batch = task.method.erased_batch(1)
    alone = torch.zeros_like(batch.concepts)
    object.__setattr__(batch, "concepts", alone)
    task.strategy.ascend(batch)
    first, second = task.strategy.pi.detach()
    assert first.abs().max() > 0
    assert second.abs().max() == 0


@pytest.mark.parametrize("exact", [False, True])
def test_a_shared_ascent_follows_l2_of_the_step_s_own_rows(exact: bool) -> None:
    """The outer loss's backward pass moves pi by Adam on d L2 / d pi, whatever lambda is."""
    settings = {"batch_size": 6, "ascent_lr": 0.1, "temperature": 1.5, "exact_gradient": exact}
    task = prepared("gumbel", "church", "bus", keep_weight=7.0, **settings)
    pi = set_pi(task)
    start, before = pi.detach().clone(), pi.detach().clone()
    batch = task.method.erased_batch(4)
    strategy = task.strategy
    y = strategy.draw(batch.concepts, task.context.generator(4, "keep"))
    generator = task.context.generator(4, "keep")
    torch.rand(y.shape, generator=generator)  # what the draw of y took
    (expected,) = torch.autograd.grad(strategy.gain(batch, y, generator), pi)
    reference = torch.optim.Adam([before.requires_grad_(True)], lr=0.1, maximize=True)
    before.grad = expected
    reference.step()

    passes = len(task.passes)
    task.method.training_step(4).loss.backward()
    own = 2 if exact else 1  # with exact_gradient the frozen prediction is a pass as well
    assert len(task.passes) == passes + own
    assert pi.grad is None
    clear = expected.abs() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(pi.detach()[clear], before.detach()[clear], rtol=1e-3, atol=1e-4)
    assert not torch.equal(pi.detach(), start)


def test_a_shared_ascent_leaves_the_weights_gradient_alone() -> None:
    """At one pi the step on theta' is the same, with or without passes of pi's own."""
    found = []
    for shared in (True, False):
        task = prepared("gumbel", batch_size=4, shared_ascent=shared, ascent_steps=0)
        task.method.training_step(0).loss.backward()
        found.append([p.grad.clone() for p in task.context.parameters.values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shared", [False, True])
def test_pi_stays_in_the_first_step_where_l2_is_nothing_but_rounding(shared: bool) -> None:
    """Adam would move it by its whole rate in the direction of that rounding."""
    task = prepared("gumbel", shared_ascent=shared, latents_from="current", move=0.0)
    task.method.training_step(0).loss.backward()
    assert not task.strategy.pi.detach().any()
    task.move()
    task.method.training_step(1).loss.backward()
    assert task.strategy.pi.detach().any()


@pytest.mark.parametrize("settings", [{}, {"shared_ascent": False, "ascent_steps": 2}])
def test_pi_can_move_as_far_as_in_a_thousand_published_ascents(settings: dict[str, Any]) -> None:
    for steps in (10, 1000):
        task = prepared("gumbel", steps=steps, **settings)
        (group,) = task.strategy.optimizer.param_groups
        ascents = settings.get("ascent_steps", 1)
        assert group["lr"] * steps * ascents == pytest.approx(1000 * 1e-2)
    assert prepared("gumbel", ascent_lr=0.3).strategy.optimizer.param_groups[0]["lr"] == 0.3

"""The search by normalised gradient steps: c_a <- c_a + eta ||c_a|| g / ||g||."""

from __future__ import annotations

import pytest
import torch

from erasekit.methods.preservation.pgd import normalised_ascent
from tests.methods.tasks import Task, prepared


def ascended(task: Task, c_a: torch.Tensor, batch, eta: float, steps: int) -> torch.Tensor:
    """The formula, concept by concept: g from the rows of that concept, the frozen side fixed."""
    c_a = c_a.clone()
    for _ in range(steps):
        free = c_a.clone().requires_grad_(True)
        rows = free[batch.concepts]
        with torch.no_grad():
            frozen = task.frozen_noise(batch.latents, batch.timesteps, rows)
        trained = task.trained_noise(batch.latents, batch.timesteps, rows)
        ((trained - frozen) ** 2).mean().backward()
        for e in set(batch.concepts.tolist()):
            g = free.grad[e]
            c_a[e] = c_a[e] + eta * c_a[e].norm() * g / g.norm()
    return c_a


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("start", ["concept", "neutral"])
def test_steps_are_the_formula_s(start: str, steps: int) -> None:
    task = prepared(
        *("pgd", "church", "bus"), ascent_steps=steps, eta=0.05, start=start, batch_size=4
    )
    at = task.embed("church", "bus") if start == "concept" else task.embed("", "")
    torch.testing.assert_close(task.strategy.c_a, at)
    batch = task.method.erased_batch(0)
    task.strategy.ascend(batch)
    expected = ascended(task, at, batch, 0.05, steps)
    torch.testing.assert_close(task.strategy.c_a, expected, rtol=1e-3, atol=1e-3)
    step = (task.strategy.c_a - at).flatten(1).norm(dim=1) / at.flatten(1).norm(dim=1)
    assert (step > 0).all()
    if steps == 1:
        torch.testing.assert_close(step, torch.full((2,), 0.05), rtol=1e-3, atol=0)


def test_it_is_kept_on_the_erased_concept_s_latents() -> None:
    task = prepared("pgd", "church", "bus", batch_size=4)
    output = task.method.training_step(0)
    last = task.passes[-1]
    assert torch.equal(last.latents[:4], last.latents[4:])
    kept = last.prompt_embeds[4:]
    assert all(any(torch.equal(row, c) for c in task.strategy.c_a) for row in kept)
    with torch.no_grad():
        trained = task.trained_noise(last.latents[4:], last.timesteps[4:], kept)
        frozen = task.frozen_noise(last.latents[4:], last.timesteps[4:], kept)
    expected = ((trained - frozen) ** 2).mean().item()
    assert output.record["preserve_loss"] == pytest.approx(expected, rel=1e-3)


def test_in_the_first_step_the_gradient_is_zero_and_nothing_moves() -> None:
    """theta' is theta: no NaN, and no step into rounding noise either."""
    task = prepared("pgd", "church", "bus", move=0.0, ascent_steps=3, batch_size=4)
    output = task.method.training_step(0)
    assert torch.equal(task.strategy.c_a, task.strategy.start)
    assert [row["shift"] for row in output.record["adversary"]] == [0.0, 0.0]
    assert output.record["preserve_loss"] == 0.0
    assert bool(output.loss.isfinite())


def test_a_zero_gradient_moves_one_concept_only_where_it_is_not_zero() -> None:
    c_a = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    gradient[1] = 0
    gradient[2] *= 1e-36
    moved = normalised_ascent(c_a, gradient, eta=0.1)
    assert bool(moved.isfinite().all())
    assert torch.equal(moved[1], c_a[1])
    length = (moved[0] - c_a[0]).norm()
    torch.testing.assert_close(length, 0.1 * c_a[0].norm())


@pytest.mark.parametrize("carry", [True, False])
def test_carry_over(carry: bool) -> None:
    task = prepared("pgd", carry_over=carry, ascent_steps=1, eta=0.1, batch_size=2)
    at = task.embed("garbage truck")
    for step in range(3):
        batch = task.method.erased_batch(step)
        task.strategy.ascend(batch)
        at = ascended(task, at if carry else task.embed("garbage truck"), batch, eta=0.1, steps=1)
        torch.testing.assert_close(task.strategy.c_a, at, rtol=1e-2, atol=1e-2)


def test_a_concept_that_is_not_in_the_batch_stays() -> None:
    task = prepared("pgd", "church", "bus", batch_size=1)
    task.strategy.ascend(task.method.erased_batch(0))
    moved = (task.strategy.c_a - task.strategy.start).flatten(1).norm(dim=1) > 0
    assert moved.tolist().count(True) == 1


def test_the_history_says_how_far_it_drifted_and_what_is_near() -> None:
    task = prepared("pgd", "church", ascent_steps=3, eta=0.3, batch_size=2)
    record = task.method.training_step(0).record
    (row,) = record["adversary"]
    drift = task.strategy.c_a - task.embed("church")
    assert row["shift"] == pytest.approx(float(drift.norm() / task.embed("church").norm()))
    distances = {
        word: float((task.embed(word)[0] - task.strategy.c_a[0]).norm())
        for word in task.strategy.space.words
    }
    assert row["nearest"] == min(distances, key=distances.__getitem__)
    assert row["concept"] is None
    assert row["entropy"] is None

"""The published schedule, written plainly, and the product's recipe of it: one edit."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from benchmarks.speed.published import PublishedConfig, erase_as_published
from erasekit.concepts import Erasure
from erasekit.diffusion.concept_space import concept_space
from erasekit.testing import tiny_model
from erasekit.training.erase import erase

STEPS, SOLVER, RATE = 4, 5, 1e-3


def by_yardstick(seed: int, **settings: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """Trained tensors, what they were, and the passes, of the plain loop."""
    model = tiny_model()
    erasure, family = Erasure.of("church"), model.family
    space = concept_space(model, erasure)
    space = space.nearest(family.word_features(["church"]), 1000)
    config = PublishedConfig(steps=STEPS, ddim_steps=SOLVER, learning_rate=RATE, **settings)
    tensors, passes = erase_as_published(
        model.pipeline,
        family.embed_prompts(["church"]),
        space.prompt_embeds,
        family.unconditional_embeds(),
        config,
        seed,
    )
    return tensors, model.unet.state_dict(), passes


def by_recipe(seed: int, **settings: Any) -> Any:
    own = {"steps": STEPS, "trajectory_steps": SOLVER, "learning_rate": RATE, "centres": 0}
    return erase(
        tiny_model(), "church", "gumbel", seed=seed, recipe="published", settings=own | settings
    )


@pytest.mark.parametrize("seed", [0, 3])
def test_the_recipe_gives_the_edit_of_the_plain_loop(seed: int) -> None:
    plain, base, _ = by_yardstick(seed)
    edit = by_recipe(seed)
    assert edit.tensors.keys() == plain.keys()
    for name, tensor in plain.items():
        moved = (tensor - base[name]).norm()
        assert moved > 0
        assert (edit.tensors[name] - tensor).norm() <= 0.01 * moved, name


@pytest.mark.parametrize(
    "other",
    [
        {"loss_space": "epsilon"},
        {"timesteps": "solver"},
        {"latents_from": "frozen"},
        {"keep_weight": 2.0},
        {"trajectory_guidance": 1.0},
    ],
    ids=str,
)
def test_each_part_of_the_recipe_matters(other: dict[str, Any]) -> None:
    plain, base, _ = by_yardstick(0)
    edit = by_recipe(0, **other)
    apart = sum(float((edit.tensors[n] - t).norm()) for n, t in plain.items())
    assert apart > 0.05 * sum(float((t - base[n]).norm()) for n, t in plain.items())


def test_the_search_of_the_recipe_is_the_plain_loop_s() -> None:
    """With a rate at which pi decides what is drawn: the same words, or the edits would differ."""
    for rate in (30.0, 1e-6):
        plain, base, _ = by_yardstick(1, ascent_lr=rate)
        edit = by_recipe(1, ascent_lr=rate)
        apart = sum(float((edit.tensors[n] - t).norm()) for n, t in plain.items())
        assert apart < 0.01 * sum(float((t - base[n]).norm()) for n, t in plain.items())
    other = by_recipe(1, ascent_lr=30.0)
    assert [r["adversary"] for r in other.history] != [r["adversary"] for r in edit.history]


def test_the_recipe_takes_fewer_passes() -> None:
    """A loop of pi has no erase branch; the others have the same rows."""
    _, _, plain = by_yardstick(0)
    passes = by_recipe(0).info["unet_passes"]
    assert passes["backward"] == plain.backward == 2 * STEPS + (STEPS - 1)
    assert passes["forward"] < plain.forward


def test_t_lies_in_the_bin_of_the_solver_s_timestep() -> None:
    seen: list[int] = []
    for seed in range(8):
        seen += [r["timestep"][0] for r in by_recipe(seed, shared_ascent=True).history]
    grid = {t - 1 for t in range(1, 1000, 1000 // SOLVER)}
    assert len(set(seen)) > 2 * SOLVER
    assert not set(seen) <= grid
    assert max(seen) < 1000
    assert min(seen) >= 0

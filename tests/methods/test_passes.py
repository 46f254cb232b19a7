"""UNet passes of a run, beside what the steps say they must be."""

from __future__ import annotations

import pytest

from erasekit.concepts import Erasure
from erasekit.diffusion.trajectories import FrozenTrajectories
from erasekit.testing import tiny_model
from erasekit.training.erase import erase

STEPS, BATCH, SOLVER, KEPT = 3, 4, 5, 3
WORDS_OF_R = 2


def trajectories(prompts: int, each: int) -> int:
    """Whole trajectories with guidance: two passes per solver step."""
    return prompts * each * SOLVER * 2


EXPECTED = {  # method, settings: forward beside all trajectories, backward
    "none": ({}, STEPS * BATCH, STEPS * BATCH),
    "l2": ({}, STEPS * BATCH, STEPS * BATCH),
    "neutral": ({}, STEPS * 2 * BATCH, STEPS * 2 * BATCH),
    "random": ({}, STEPS * 2 * BATCH, STEPS * 2 * BATCH),
    "nearest": ({"neighbours": 2}, STEPS * 2 * BATCH, STEPS * 2 * BATCH),
    "gumbel": ({}, STEPS * 2 * BATCH, STEPS * 2 * BATCH),
    "gumbel with passes of its own": (
        {"ascent_steps": 2, "shared_ascent": False},
        (STEPS - 1) * 2 * BATCH + STEPS * 2 * BATCH,  # in the first step there is nothing to find
        (STEPS - 1) * 2 * BATCH + STEPS * 2 * BATCH,
    ),
    "pgd": (
        {"ascent_steps": 3},
        STEPS * (3 * 2 * BATCH + BATCH + 2 * BATCH),
        STEPS * (3 * BATCH + 2 * BATCH),
    ),
    "argmax": (
        {"refresh": 2, "candidates": 5},
        2 * 2 * WORDS_OF_R + STEPS * 2 * BATCH,  # one scoring of both, a frozen pass and a trained
        STEPS * 2 * BATCH,
    ),
}


@pytest.mark.parametrize("neutral", ["", "a photo"])
@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_passes_are_what_the_steps_say(
    registry, method: str, neutral: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word's one trajectory, without guidance, is a pass a solver step as far as it is drawn."""
    furthest: dict[int, int] = {}
    draw = FrozenTrajectories.draw

    def seen(self: FrozenTrajectories, indices, *rest, **options):
        batch = draw(self, indices, *rest, **options)
        if not self.whole:
            order = self.solver.timesteps.tolist()
            for word, t in zip(indices.tolist(), batch.timesteps.tolist(), strict=True):
                furthest[word] = max(furthest.get(word, 0), order.index(t) + 1)
        return batch

    monkeypatch.setattr(FrozenTrajectories, "draw", seen)
    settings, forward, backward = EXPECTED[method]
    method = method.split()[0]
    model = tiny_model()
    edit = erase(
        model,
        Erasure.of("church", "bus", neutral=neutral),
        method,
        registry=registry,
        settings={
            "steps": STEPS,
            "batch_size": BATCH,
            "trajectory_steps": SOLVER,
            "trajectories": KEPT,
            **(
                {"keep_trajectories": 1, "num_concepts": WORDS_OF_R}
                if method in ("random", "nearest", "gumbel", "argmax")
                else {}
            ),
            **settings,
        },
    )
    assert bool(furthest) == (method in ("random", "nearest", "gumbel", "argmax"))
    forward += sum(furthest.values())
    forward += trajectories(2, -(-KEPT // 2))  # shared out over the erased concepts
    if neutral:  # one frozen pass a step: guidance computed eps(z_t, "") alone
        forward += STEPS * BATCH
    assert edit.info["unet_passes"] == {"forward": forward, "backward": backward}
    assert model.passes.as_dict() == edit.info["unet_passes"]


def test_the_current_model_s_trajectories_cost_a_sampling_each_step(registry) -> None:
    """As published: down to a drawn solver step with guidance, then both frozen predictions."""
    edit = erase(
        tiny_model(),
        Erasure.of("church"),
        "none",
        registry=registry,
        settings={
            "steps": STEPS,
            "batch_size": BATCH,
            "trajectory_steps": SOLVER,
            "latents_from": "current",
        },
    )
    spacing = 1000 // SOLVER
    stops = [SOLVER - 1 - (record["timestep"][0] - 1) // spacing for record in edit.history]
    forward = sum(2 * BATCH * stop + 2 * BATCH + BATCH for stop in stops)
    assert edit.info["unet_passes"] == {"forward": forward, "backward": STEPS * BATCH}

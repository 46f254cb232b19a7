"""What is chosen to fit a run into a memory, and the arithmetic behind it."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConfigError
from erasekit.testing import tiny_model
from erasekit.training.erase import erase
from erasekit.training.memory import (
    GIB,
    LIBRARIES,
    MemoryNeeds,
    estimate,
    fit_memory,
    measure_row,
    memory_needs,
)
from erasekit.training.plan import TrainingSettings, plan_erasure
from erasekit.training.trainer import Callback

PLAIN: dict[str, Any] = TrainingSettings().model_dump()
NEEDS = MemoryNeeds(
    unet=4 * GIB,
    idle=1 * GIB,
    trained=GIB // 8,
    row=2 * GIB,
    passing_row=GIB // 4,
    rows=16,
    kept=GIB // 2,
)


def test_the_arithmetic_is_what_the_text_says() -> None:
    always = (4 + 1 + 4 / 8 + 0.5) * GIB + LIBRARIES
    assert estimate(NEEDS, PLAIN) == always + 12 * GIB / 8 + 16 * 2 * GIB
    checkpointed = {**PLAIN, "gradient_checkpointing": True}
    assert estimate(NEEDS, checkpointed) == always + 12 * GIB / 8 + 16 * GIB / 4
    parts = {**checkpointed, "accumulate": 5}  # ceil(16 / 5) = 4 rows
    assert estimate(NEEDS, parts) == always + 12 * GIB / 8 + 4 * GIB / 4
    assert estimate(NEEDS, {**parts, "precision": "bf16"}) == always + 12 * GIB / 8 + 4 * GIB / 8
    eight = {**parts, "optimizer": "adam8bit"}
    assert estimate(NEEDS, eight) == always + 6 * GIB / 8 + 4 * GIB / 4
    assert estimate(NEEDS, {**PLAIN, "offload": True}) == estimate(NEEDS, PLAIN)


def test_nothing_changes_where_there_is_enough() -> None:
    plan = fit_memory(NEEDS, PLAIN, 64)
    assert plan.choices == {}
    assert "nothing had to change" in plan.text


def test_the_cheapest_measure_that_suffices_is_taken_and_said() -> None:
    plan = fit_memory(NEEDS, PLAIN, 20)
    assert plan.choices == {"gradient_checkpointing": True}
    assert (
        plan.text
        == "About 12.2 GiB of 20 are needed, with gradient checkpointing; 40.2 GiB without."
    )


@pytest.mark.parametrize("limit", [8.5, 9, 10, 12, 15, 30])
def test_what_is_chosen_fits(limit: float) -> None:
    plan = fit_memory(NEEDS, PLAIN, limit, eight_bit=False)
    assert plan.estimate == estimate(NEEDS, {**PLAIN, **plan.choices}) <= limit * GIB


def test_numbers_change_last() -> None:
    """Parts first, then what changes the edit."""
    plan = fit_memory(NEEDS, PLAIN, 8.5)
    assert plan.choices["accumulate"] > 8
    least = fit_memory(NEEDS, PLAIN, 8.4)
    assert least.choices["precision"] == "bf16"
    with pytest.raises(ConfigError, match="At least about"):
        fit_memory(NEEDS, {**PLAIN, "precision": "fp32"}, 8.4)


def test_a_gpu_is_also_freed_of_what_is_idle() -> None:
    gpu = MemoryNeeds(**{**vars(NEEDS), "gpu": True})
    assert fit_memory(gpu, PLAIN, 39.5).choices == {"offload": True}
    plan = fit_memory(gpu, PLAIN, 7, eight_bit=True)
    assert plan.choices["optimizer"] == "adam8bit"


def test_too_little_is_refused_with_what_would_be_needed() -> None:
    with pytest.raises(ConfigError, match=r"At least about \d\.\d GiB.*--max-memory is 3"):
        fit_memory(NEEDS, PLAIN, 3)


def test_a_row_is_what_autograd_really_keeps() -> None:
    """Beside the storages that a kept graph holds alive, found by walking it."""
    model = tiny_model()
    parameters = ParameterScope("xattn").select(model.unet)
    row, passing = measure_row(model.family, parameters)
    assert not any(p.requires_grad for p in model.unet.parameters())
    held: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.unet.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    for parameter in parameters.values():
        parameter.requires_grad_(True)
    embeds = model.family.unconditional_embeds().clone().requires_grad_(True)
    latents = torch.zeros(1, *model.family.latents_shape())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.family.predict_noise(latents, torch.zeros(1, dtype=torch.int64), embeds)
    assert row == sum(held.values())
    assert 0 < passing < row
    del output
    gc.collect()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_row_without_gradient_takes_no_more_than_is_reckoned(family: str) -> None:
    model = tiny_model(family)
    _, passing = measure_row(model.family, ParameterScope("xattn").select(model.unet))
    runner, latents = model.family.runner, torch.zeros(1, *model.family.latents_shape())
    runner.limit = 2 * passing
    assert runner.rows_at_once(latents) == 1
    runner.limit = 8 * passing
    assert runner.rows_at_once(latents) > 1


def needs_of(method: str, erasure: Erasure, **settings: Any) -> MemoryNeeds:
    model = tiny_model()
    plan = plan_erasure(model, erasure, method, {"trajectory_steps": 5, **settings})
    use = plan.build().expected_memory(plan.context())
    return memory_needs(model.family, plan.parameters(), use)


LATENT = 4 * 8 * 8 * 4


def test_needs_of_a_run_are_those_that_its_method_says() -> None:
    two, model = Erasure.of("church", "bus"), tiny_model()
    own = {"batch_size": 3, "trajectories": 2, "keep_trajectories": 4, "num_concepts": 7}
    needs = needs_of("random", two, **own)
    parameters = ParameterScope("xattn").select(model.unet)
    assert needs.unet == 4 * sum(p.numel() for p in model.unet.parameters())
    assert needs.trained == sum(p.numel() for p in parameters.values())
    assert needs.rows == 3 + 3
    assert needs.kept == LATENT * 5 * (3 * 2 + 2 * 7 * 4)
    assert needs_of("none", two, batch_size=3, trajectories=2).rows == 3
    assert needs_of("none", two, batch_size=0).rows == 2  # one for each erased concept
    assert needs_of("random", two, **own, keep_rows=3).rows == 3 + 9
    named = Erasure.of("church", "bus", keep=("a boat",))
    assert needs_of("random", named, **own).kept == LATENT * 5 * (3 * 2 + 2 * 1 * 4)
    back = {**own, "trajectory_solver": "dpmsolver++", "keep_guidance": 3.0}
    assert needs_of("random", named, **back).kept == LATENT * 5 * (3 * 2 + 3 * 1 * 4)
    assert needs_of("random", two, **own, trajectory_memory=1 / 2**20).kept == 2**10
    assert needs_of("random", two, **own, latents_from="current").kept == 0


def test_a_run_takes_what_was_chosen_and_says_so() -> None:
    plain = erase(tiny_model(), "church", "neutral", settings={"steps": 1})
    assert "memory" not in plain.info
    config = plain.info["config"]
    needs = needs_of("neutral", Erasure.of("church"), trajectory_steps=config["trajectory_steps"])
    enough = estimate(needs, {**config, "gradient_checkpointing": True}) / GIB
    assert enough < estimate(needs, config) / GIB
    model, seen = tiny_model(), []

    class Look(Callback):
        def on_step(self, record: dict[str, Any]) -> None:
            seen.append(model.family.runner.limit)

    settings = {"max_memory": enough, "steps": 1}
    edit = erase(model, "church", "neutral", settings=settings, callbacks=[Look()])
    assert edit.info["config"]["gradient_checkpointing"]
    assert "are needed, with gradient checkpointing" in edit.info["memory"]
    assert seen == [max(needs.rows * needs.passing_row, needs.passing_row)]  # all that is left

"""What is chosen to fit a run into a memory, and the arithmetic behind it."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConfigError
from erasekit.testing import tiny_model
from erasekit.training.erase import erase
from erasekit.training.memory import (
    GIB,
    LIBRARIES,
    MemoryNeeds,
    estimate,
    measure_row,
    memory_needs,
    plan_memory,
)
from erasekit.training.settings import TrainingSettings

PLAIN: dict[str, Any] = TrainingSettings().model_dump()
NEEDS = MemoryNeeds(
    unet=4 * GIB,
    idle=1 * GIB,
    trained=GIB // 8,
    row=2 * GIB,
    passing_row=GIB // 4,
    rows=16,
    sampled_rows=32,
    pool=GIB // 2,
)


def test_the_arithmetic_is_what_the_text_says() -> None:
    always = (4 + 1 + 4 / 8 + 0.5) * GIB + LIBRARIES
    assert estimate(NEEDS, PLAIN) == always + 12 * GIB / 8 + 16 * 2 * GIB
    checkpointed = {**PLAIN, "gradient_checkpointing": True}
    preparing, training = 32 * GIB / 4, 12 * GIB / 8 + 16 * GIB / 4
    assert estimate(NEEDS, checkpointed) == always + max(preparing, training)
    renewed = replace(NEEDS, renewed=True)  # sampled again beside gradient and moments
    both = 12 * GIB / 8 + max(32 * GIB / 4, 16 * GIB / 4)
    assert estimate(renewed, checkpointed) == always + both
    parts = {**checkpointed, "accumulate": 5}  # ceil(16 / 5) = 4 rows, ceil(32 / 5) = 7 rows
    assert estimate(NEEDS, parts) == always + max(7 * GIB / 4, 12 * GIB / 8 + 4 * GIB / 4)
    assert estimate(NEEDS, {**parts, "precision": "bf16"}) == always + 12 * GIB / 8 + 4 * GIB / 8
    eight = {**parts, "optimizer": "adam8bit"}
    assert estimate(NEEDS, eight) == always + max(7 * GIB / 4, 6 * GIB / 8 + 4 * GIB / 4)
    assert estimate(NEEDS, {**PLAIN, "offload": True}) == estimate(NEEDS, PLAIN)
    large = MemoryNeeds(**{**vars(NEEDS), "rows": 2, "rows_at_once": 8})
    assert estimate(large, checkpointed) == always + 8 * GIB / 4  # of 32 rows
    assert estimate(large, {**checkpointed, "accumulate": 3}) == always + 12 * GIB / 8 + GIB / 4


def test_nothing_changes_where_there_is_enough() -> None:
    plan = plan_memory(NEEDS, PLAIN, 64)
    assert plan.choices == {}
    assert "nothing had to change" in plan.text


def test_the_cheapest_measure_that_suffices_is_taken_and_said() -> None:
    plan = plan_memory(NEEDS, PLAIN, 20)
    assert plan.choices == {"gradient_checkpointing": True}
    assert (
        plan.text
        == "About 14.8 GiB of 20 are needed, with gradient checkpointing; 40.2 GiB without."
    )


@pytest.mark.parametrize("limit", [8.5, 9, 10, 12, 15, 30])
def test_what_is_chosen_fits(limit: float) -> None:
    plan = plan_memory(NEEDS, PLAIN, limit, eight_bit=False)
    assert plan.estimate == estimate(NEEDS, {**PLAIN, **plan.choices}) <= limit * GIB


def test_numbers_change_last() -> None:
    """Parts first, then what changes the edit."""
    plan = plan_memory(NEEDS, PLAIN, 8.5)
    assert plan.choices["accumulate"] > 8
    least = plan_memory(NEEDS, PLAIN, 8.4)
    assert least.choices["precision"] == "bf16"
    with pytest.raises(ConfigError, match="At least about"):
        plan_memory(NEEDS, {**PLAIN, "precision": "fp32"}, 8.4)


def test_a_gpu_is_also_freed_of_what_is_idle() -> None:
    gpu = MemoryNeeds(**{**vars(NEEDS), "gpu": True})
    assert plan_memory(gpu, PLAIN, 39.5).choices == {"offload": True}
    plan = plan_memory(gpu, PLAIN, 7, eight_bit=True)
    assert plan.choices["optimizer"] == "adam8bit"


def test_too_little_is_refused_with_what_would_be_needed() -> None:
    with pytest.raises(ConfigError, match=r"At least about \d\.\d GiB.*--max-memory is 3"):
        plan_memory(NEEDS, PLAIN, 3)


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


def test_needs_of_a_run_are_read_from_model_and_settings() -> None:
    model = tiny_model()
    parameters = ParameterScope("xattn").select(model.unet)
    settings = {
        **PLAIN,
        "batch_size": 3,
        "trajectory_steps": 5,
        "trajectories": 2,
        "keep_trajectories": 4,
        "trajectory_memory": 4.0,
        "num_concepts": 7,
        "centres": 0,
    }
    needs = memory_needs(model.family, parameters, settings, erased=2, kept=0, processes=2)
    assert needs.unet == 4 * sum(p.numel() for p in model.unet.parameters())
    assert needs.trained == sum(p.numel() for p in parameters.values())
    assert needs.rows == 3  # 3 erased and 3 kept, by 2 processes
    assert needs.pool == (4 * 8 * 8 * 4) * 5 * (3 * 2 + 2 * 7 * 4)
    each = memory_needs(model.family, parameters, {**settings, "batch_size": 0}, erased=5, kept=0)
    assert each.rows == 2 * 5  # one row for each erased concept
    named = memory_needs(model.family, parameters, settings, erased=2, kept=1)
    assert named.pool == (4 * 8 * 8 * 4) * 5 * (3 * 2 + 2 * 1 * 4)
    assert named.sampled_rows == 12
    assert named.rows_at_once == 512
    back = {**settings, "trajectory_solver": "dpmsolver++", "keep_guidance": 3.0}
    guided = memory_needs(model.family, parameters, back, erased=2, kept=1)
    assert guided.pool == (4 * 8 * 8 * 4) * 5 * (3 * 2 + 3 * 1 * 4)
    little = {**settings, "trajectory_memory": 1 / 2**20}
    assert memory_needs(model.family, parameters, little, erased=2, kept=0).pool == 2**10


def test_a_run_takes_what_was_chosen_and_says_so() -> None:
    plain = erase(tiny_model(), "neutral", "church", settings={"steps": 1})
    assert "memory" not in plain.info
    model, config = tiny_model(), plain.info["config"]
    parameters = ParameterScope("xattn").select(model.unet)
    needs = memory_needs(model.family, parameters, config, erased=1, kept=0)
    enough = estimate(needs, {**config, "gradient_checkpointing": True}) / GIB
    assert enough < estimate(needs, config) / GIB
    edit = erase(model, "neutral", "church", settings={"max_memory": enough, "steps": 1})
    assert edit.info["config"]["gradient_checkpointing"]
    assert "are needed, with gradient checkpointing" in edit.info["memory"]

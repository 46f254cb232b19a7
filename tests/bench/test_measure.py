"""A first look at one edit."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from erasekit.bench.measure import benchmark, measure, spread_of
from erasekit.bench.runner import Observer
from erasekit.concepts import Erasure
from erasekit.diffusion.sampling import generate
from erasekit.edits import Edit
from erasekit.metrics.scores import nan_to_null
from tests.bench.conftest import QUICK


@pytest.fixture
def edit(world_model) -> Edit:
    """An edit that shakes the cross-attention."""
    torch.manual_seed(0)
    tensors = {
        name: value + 0.3 * torch.randn_like(value)
        for name, value in world_model.unet.named_parameters()
        if "attn2" in name
    }
    info = {"base_model": {"id": world_model.id, "hash": world_model.hash}}
    return Edit({k: v.detach() for k, v in tensors.items()}, info)


def test_before_and_after_start_from_the_same_noise(world_model, edit, tiny_scorer) -> None:
    erasure = Erasure((world_model.concept("church"),))
    seen: list[int] = []
    told: list[int] = []
    result = measure(
        *(world_model, edit, erasure),
        scorer=tiny_scorer,
        on_images=seen.append,
        on_total=told.append,
    )
    names = [c.paired.concept for c in result.concepts]
    assert names == ["church", "bus", "banana"]  # its own family has no other held-out one
    assert [sum(seen)] == told == [2 * 3 * 4]
    for concept in result.concepts:
        for when, images, scores in (
            ("before", concept.images_before, concept.paired.before),
            ("after", concept.images_after, concept.paired.after),
        ):
            with edit.applied(world_model) if when == "after" else nullcontext():
                again = generate(world_model, [concept.paired.concept], [2])
            assert np.abs(again[0].astype(int) - images[2]).max() <= 1
            expected = tiny_scorer.score(images, [concept.paired.concept] * 4)
            assert list(scores.scores) == [s.value for s in expected]
    expected = np.mean([np.mean(c.paired.deltas) for c in result.kept])
    assert result.delta.value == pytest.approx(expected)
    assert result.delta.n == 8
    assert result.delta.low < result.delta.value < result.delta.high


def test_the_numbers_are_json_ready(world_model, edit, tiny_scorer) -> None:
    erasure = Erasure((world_model.concept("church"), world_model.concept("castle")))
    result = measure(
        world_model,
        edit,
        erasure,
        concepts=["bus"],
        images_per_concept=1,
        scorer=tiny_scorer,
    )
    data = result.as_dict()
    assert data == nan_to_null(data)
    assert [row["concept"] for row in data["erased"]] == ["church", "castle"]
    assert data["kept"][0]["ci95"] == [None, None]
    assert math.isfinite(data["kept"][0]["delta"])
    assert data["esr1"] is None  # nothing of what the tiny model draws is taken for a church


def test_what_the_model_hardly_knows_is_said(world_model, edit, tiny_scorer) -> None:
    erasure = Erasure.of("xyzzy")
    result = measure(world_model, edit, erasure, concepts=[], scorer=tiny_scorer)
    assert any("Not in the list" in r and "xyzzy" in r for r in result.remarks)
    assert math.isnan(result.delta.value)
    weak = [
        measure(
            world_model, edit, Erasure((world_model.concept(c.name),)),
            concepts=[], images_per_concept=2, scorer=tiny_scorer,
        )
        for c in world_model.concepts
    ]  # fmt: skip
    said = [any("hardly knows" in r for r in result.remarks) for result in weak]
    assert any(said)


def test_the_spread_has_near_neighbours_first_and_nothing_erased(suite) -> None:
    assert spread_of(suite, Erasure.of("garbage truck"))[0] == "bus"
    assert "bus" not in spread_of(suite, Erasure.of("bus"))


def test_the_models_scorer_runs_where_the_model_does(
    world_model, edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spied(name, registry, *, device):
        seen.append((name, device))
        raise InterruptedError

    monkeypatch.setattr("erasekit.bench.measure.load_scorer", spied)
    world_model.unet.to("meta")
    erasure = Erasure((world_model.concept("church"),))
    with pytest.raises(InterruptedError):
        measure(world_model, edit, erasure)
    assert seen == [(world_model.descriptor.scorer, torch.device("meta"))]


def test_an_edit_says_itself_what_it_erases(world_model, edit, tiny_scorer) -> None:
    edit.info["concepts"] = ["church"]
    (first, *_) = measure(world_model, edit, scorer=tiny_scorer, images_per_concept=1).concepts
    assert first.paired.concept == "church"
    assert first.paired.split == "erased"


def test_methods_are_measured_on_a_suite(world_model, suite, tiny_scorer_folder, tmp_path) -> None:
    heard: list[str] = []

    class Heard(Observer):
        def on_cell(self, cell) -> None:
            heard.append(cell.method)

    def run(**how):
        return benchmark(
            world_model,
            suite,
            methods=["none"],
            concepts=["church", "bus+car"],
            seeds=1,
            images_per_concept=1,
            scorer=f"local-dir:{tiny_scorer_folder}",
            settings=QUICK,
            observer=Heard(),
            **how,
        )

    first = run(folder=tmp_path / "store")
    assert {row.erased for row in first.rows if row.method == "none"} >= {"church", "bus+car"}
    assert heard == ["none", "none"]
    again = run(folder=tmp_path / "store")
    assert heard == ["none", "none"], "what is in the store was computed again"
    assert repr(again.rows) == repr(first.rows)

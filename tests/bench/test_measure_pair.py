"""Two edits measured side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erasekit.bench.compare import compare_pairs
from erasekit.bench.measure import measure, measure_pair
from erasekit.concepts import Erasure
from erasekit.edits import Edit
from erasekit.errors import EditError


@pytest.fixture
def make_edit(world_model):
    """Edits that shake the cross-attention by so much."""

    def make(size: float, *concepts: str, **info) -> Edit:
        torch.manual_seed(0)
        tensors = {
            name: value.detach() + size * torch.randn_like(value)
            for name, value in world_model.unet.named_parameters()
            if "attn2" in name
        }
        base = {"id": world_model.id, "hash": world_model.hash}
        made_by = {"method": "none", "seed": 0, "neutral": "", "keep": [], "config": {"size": size}}
        made_by["concepts"] = list(concepts or ("church",))
        return Edit(tensors, {**made_by, "base_model": base, **info})

    return make


def test_both_are_held_against_the_same_images(world_model, make_edit, tiny_scorer) -> None:
    a, b = make_edit(0.1), make_edit(0.5)
    drawn: list[int] = []
    told: list[int] = []
    pairs = measure_pair(
        world_model,
        a,
        b,
        images_per_concept=3,
        scorer=tiny_scorer,
        on_images=drawn.append,
        on_total=told.append,
    )
    ((one, two),) = pairs
    assert [sum(drawn)] == told == [3 * 3 * 3]  # un-erased, A and B, three concepts
    assert [c.before for c in one.concepts] == [c.before for c in two.concepts]
    erasure = Erasure((world_model.concept("church"),))
    alone = measure(world_model, b, erasure, images_per_concept=3, scorer=tiny_scorer)
    assert two.concepts == tuple(c.paired for c in alone.concepts)
    (found,) = compare_pairs([pairs]).differing
    held_out = [
        np.mean([c.deltas for c in record.concepts if c.split == "held-out"])
        for record in (one, two)
    ]
    assert found.delta_difference.value == pytest.approx(held_out[1] - held_out[0])
    assert found.changed == {"size": (0.1, 0.5)}
    assert compare_pairs([[(one, one)]]).same == ("none, church",)


def test_what_was_kept_on_purpose_by_one_is_not_held_out_for_either(
    world_model, make_edit, tiny_scorer
) -> None:
    ((one, two),) = measure_pair(
        world_model,
        make_edit(0.1),
        make_edit(0.5, keep=["bus"]),
        images_per_concept=1,
        scorer=tiny_scorer,
    )
    for record in (one, two):
        assert {c.concept: c.split for c in record.concepts}["bus"] == "pool"


def test_edits_of_other_concepts_or_models_are_refused(world_model, make_edit) -> None:
    for other, words in (
        (make_edit(0.1, "bus"), r"erased concepts \(church and bus\)"),
        (make_edit(0.1, base_model={"id": "x", "hash": "ab" * 32}), "differ in model"),
    ):
        with pytest.raises(EditError, match=words):
            measure_pair(world_model, make_edit(0.1), other)

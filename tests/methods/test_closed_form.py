"""What closed forms share: least squares, rows of concepts, what is kept, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConceptError, ConfigError, ScopeError
from erasekit.methods.base import ErasureContext
from erasekit.methods.closed_form import (
    ClosedFormConfig,
    ClosedFormErasure,
    least_squares_update,
    mapping_update,
)
from erasekit.plugin.registry import Registry
from erasekit.testing import tiny_model

SCALES = {"erase_scale": 0.7, "preserve_scale": 1.3, "ridge": 0.2}


def rows(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def stacked(keys: Any, values: Any, weights: Any, weight: Any, ridge: float) -> Any:
    """W' by numpy's lstsq of sqrt(w) c W'^T = sqrt(w) v and sqrt(ridge) W'^T = sqrt(ridge) W^T."""
    keys, values, weight = (np.asarray(a, dtype=np.float64) for a in (keys, values, weight))
    root = np.sqrt(np.asarray(weights, dtype=np.float64))[:, None]
    left = np.concatenate([root * keys, np.sqrt(ridge) * np.eye(keys.shape[1])])
    right = np.concatenate([root * values, np.sqrt(ridge) * weight.T])
    return np.linalg.lstsq(left, right, rcond=None)[0].T


@pytest.mark.parametrize("out", [6, 20])
@pytest.mark.parametrize("count", [1, 5, 8, 13])
def test_the_update_is_that_of_the_stacked_least_squares_problem(out: int, count: int) -> None:
    """With fewer rows than D = 8, as many, and more."""
    weight, keys, values = rows(out, 8, 0), rows(count, 8, 1), rows(count, out, 2)
    weights = torch.tensor([0.5, 0.0, 1.0, 2.0, 30.0] * 3)[:count]
    found = weight + least_squares_update(keys, values - keys @ weight.T, 0.3, weights)
    expected = stacked(keys, values, weights, weight, 0.3)
    assert np.abs(found.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_no_weights_are_weights_of_one() -> None:
    keys, residuals = rows(3, 8, 1), rows(3, 6, 2)
    found = least_squares_update(keys, residuals, 0.1)
    assert torch.equal(found, least_squares_update(keys, residuals, 0.1, torch.ones(3)))


def test_a_mapping_is_that_of_the_stacked_least_squares_problem() -> None:
    weight, erased, guides, kept = rows(6, 8, 0), rows(2, 8, 1), rows(2, 8, 2), rows(4, 8, 3)
    found = weight + mapping_update(weight, erased, guides, kept, **SCALES)
    values = torch.cat([guides, kept]) @ weight.T
    weights = [0.7] * 2 + [1.3] * 4
    expected = stacked(torch.cat([erased, kept]), values, weights, weight, 0.2)
    assert np.abs(found.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_what_is_mapped_to_itself_changes_nothing() -> None:
    weight, erased, kept = rows(6, 8, 0), rows(2, 8, 1), rows(4, 8, 3)
    assert not mapping_update(weight, erased, erased, kept, **SCALES).any()


def test_a_large_ridge_changes_nothing() -> None:
    weight, erased, guides, kept = rows(6, 8, 0), rows(2, 8, 1), rows(2, 8, 2), rows(4, 8, 3)
    update = mapping_update(weight, erased, guides, kept, **{**SCALES, "ridge": 1e12})
    assert update.norm() < 1e-9 * weight.norm()


def test_a_small_ridge_maps_each_concept_to_its_guide_and_leaves_the_kept() -> None:
    """Fewer rows than D = 8: all of it can be had exactly."""
    weight, erased, guides, kept = rows(6, 8, 0), rows(2, 8, 1), rows(2, 8, 2), rows(4, 8, 3)
    edited = weight + mapping_update(weight, erased, guides, kept, **{**SCALES, "ridge": 1e-9})
    assert torch.allclose(erased.double() @ edited.T, (guides @ weight.T).double(), atol=1e-5)
    assert torch.allclose(kept.double() @ edited.T, (kept @ weight.T).double(), atol=1e-5)


def test_the_order_of_concepts_is_irrelevant() -> None:
    weight, erased, guides, kept = rows(6, 8, 0), rows(3, 8, 1), rows(3, 8, 2), rows(4, 8, 3)
    order = [2, 0, 1]
    found = mapping_update(weight, erased[order], guides[order], kept.flip(0), **SCALES)
    assert torch.allclose(found, mapping_update(weight, erased, guides, kept, **SCALES))


class Still(ClosedFormErasure):
    """Changes nothing; shows what `prepare` found."""

    def update(self, name: str, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)


def prepared(
    *erased: str,
    asked: tuple[str, ...] = (),
    neutral: str = "",
    scope: str = "xattn",
    **config: Any,
) -> Still:
    """A prepared method; `asked` is what --keep says."""
    model = tiny_model()
    parameters = ParameterScope(scope).select(model.unet)
    erasure = Erasure.of(*erased, keep=asked, neutral=neutral)
    method = Still(ClosedFormConfig(**config))
    method.prepare(ErasureContext(model, erasure, Registry(), 0, parameters))
    return method


def row(prompt: str, index: int) -> Tensor:
    """A row of a prompt as plain diffusers embeds it."""
    return tiny_model().pipeline.encode_prompt(prompt, "cpu", 1, False)[0][0, index].double()


def test_concepts_are_the_rows_of_their_last_tokens() -> None:
    method = prepared("garbage truck", "church")
    assert torch.equal(method.erased, torch.stack([row("garbage truck", 2), row("church", 1)]))
    assert torch.equal(method.guides, torch.stack([row("", 0)] * 2))
    assert method.kept.shape == (0, method.erased.shape[1])
    assert method.projections
    assert all(".to_k." in name or ".to_v." in name for name in method.projections)


def test_rows_from_the_last_token_on_are_mapped_one_to_one() -> None:
    """Of 16 rows, "garbage truck" has 14 from its last token on, "church" and "road" 15."""
    method = prepared("garbage truck", "church", guide=("road", ""), keep=("bus",), tokens="onward")
    assert method.erased.shape == method.guides.shape == (14 + 15, 16)
    for found, prompt, start, first, count in (
        (method.erased, "garbage truck", 0, 2, 14),
        (method.guides, "road", 0, 1, 14),
        (method.erased, "church", 14, 1, 15),
        (method.guides, "", 14, 0, 15),
        (method.kept, "bus", 0, 1, 15),
    ):
        for i in range(count):
            assert torch.equal(found[start + i], row(prompt, first + i))


def test_guides_are_one_for_all_or_one_for_each() -> None:
    assert torch.equal(prepared("church", "bus", neutral="road").guides[1], row("road", 1))
    assert torch.equal(prepared("church", "bus", guide=("car",)).guides[1], row("car", 1))
    each = prepared("church", "bus", guide=("castle", "")).guides
    assert torch.equal(each, torch.stack([row("castle", 1), row("", 0)]))
    with pytest.raises(ConfigError, match="guide='road, car' names 2 concepts for 3 erased"):
        prepared("church", "bus", "apple", guide=("road", "car"))


def test_what_is_named_is_kept_once() -> None:
    method = prepared("church", asked=("castle", "bus"), keep=("car", "castle"))
    assert method.kept_words == ["castle", "bus", "car"]
    method = prepared("church", keep=("bus",))
    assert torch.equal(method.kept, row("bus", 1)[None])


def test_words_of_the_concept_space_are_kept_where_none_is_named() -> None:
    method = prepared("church", num_concepts=3, concept_space="vocabulary")
    assert len(method.kept_words) == 3
    assert "church" not in method.kept_words
    assert prepared("church", keep=("bus",), num_concepts=3).kept_words == ["bus"]


def test_an_erased_concept_is_not_kept() -> None:
    with pytest.raises(ConceptError, match="'a church' is both erased and kept"):
        prepared("church", keep=("a church",))
    with pytest.raises(ConceptError, match="'churches' is both erased and kept"):
        prepared("church", asked=("bus",), keep=("churches",))


def test_a_scope_without_keys_and_values_is_one_sentence() -> None:
    with pytest.raises(ScopeError, match="use --scope xattn-kv"):
        prepared("church", scope="selfattn")

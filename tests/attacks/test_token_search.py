"""The parts of a search for tokens, and searches against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erasekit.attacks.token_search import (
    NearestSearch,
    SimplexSearch,
    Slots,
    TokenSettings,
    Vocabulary,
    genetic_search,
    project_simplex,
    searched_ids,
    straight_through,
    texts_of,
)
from erasekit.concepts import Concept, Erasure

rows = st.lists(
    st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4), min_size=1, max_size=3
)


@given(rows)
@settings(max_examples=60, deadline=None)
def test_the_projection_is_the_nearest_point_of_the_simplex(points: list[list[float]]) -> None:
    given_ = torch.tensor(points, dtype=torch.float64)
    found = project_simplex(given_)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(points), dtype=torch.float64))
    # no corner lies on the far side of the plane through it: <p - x, corner - x> <= 0
    toward = (given_ - found)[:, None] * (torch.eye(4, dtype=torch.float64) - found[:, None])
    assert (toward.sum(dim=2) <= 1e-9).all()
    torch.testing.assert_close(project_simplex(found), found)


@given(rows)
@settings(max_examples=30, deadline=None)
def test_the_projection_is_that_of_the_paper_by_bisection(points: list[list[float]]) -> None:
    given_ = torch.tensor(points, dtype=torch.float64)
    low, high = given_.min(dim=1).values - 1, given_.max(dim=1).values
    for _ in range(80):
        middle = (low + high) / 2
        over = (given_ - middle[:, None]).clamp(0, 1).sum(dim=1) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    expected = (given_ - low[:, None]).clamp(0, 1)
    torch.testing.assert_close(project_simplex(given_), expected, atol=1e-6, rtol=0)


@given(rows)
@settings(max_examples=30, deadline=None)
def test_straight_through_is_the_hard_value_with_a_clipped_gradient(points) -> None:
    soft = torch.tensor(points, requires_grad=True)
    hard = torch.nn.functional.one_hot(soft.argmax(dim=1), 4).float()
    weight = 3 * torch.tensor(points)
    found = straight_through(hard, soft)
    assert torch.equal(found, hard)
    (found * weight).sum().backward()
    assert torch.equal(soft.grad, weight.clamp(-1, 1))


def test_searched_tokens_hold_no_special_ones_and_no_name(model) -> None:
    family = model.family
    tokenizer = family.pipeline.tokenizer
    erasure = Erasure((Concept("church", aliases=("garbage truck",)),))
    texts = texts_of(family, searched_ids(family, erasure)[:, None])
    assert not {"church", "garbage", "truck", "", "<|endoftext|>", "<|startoftext|>"} & set(texts)
    assert {"castle", "bus", "b"} <= set(texts)
    words = texts_of(family, searched_ids(family, erasure, words_only=True)[:, None])
    assert "castle" in words
    assert len(words) < len(texts)
    allowed = searched_ids(family, erasure, allow_name=True)
    assert len(allowed) == len(tokenizer) - 2


def test_slots_stand_where_each_attack_wants_them(make_context) -> None:
    context = make_context("a photo of a church", "bus")
    letter = searched_ids(context.family, context.erasure)[:1]
    for slots, count in (
        (Slots.before(context, 2), (2, 2)),
        (Slots.alone(context, 3), (3, 3)),
        (Slots.between(context, 3), (2, 1)),
        (Slots.between(context, 1), (6, 2)),
    ):
        assert tuple(slots.free.sum(dim=1).tolist()) == count
        assert len(slots) == sum(count)
        assert slots.of([1]).sum() == count[1]
        tokens = letter.repeat(len(slots))
        found = slots.attempts(tokens, [0, 1])
        assert all(found[row].added for row in (0, 1))
        vectors = context.family.token_table()[tokens]
        embeds = slots.embed(vectors, [0, 1])
        ids = slots.ids.masked_scatter(slots.free, tokens)
        torch.testing.assert_close(embeds, context.family.embed_tokens(ids))
    word = context.family.pipeline.tokenizer("red", add_special_tokens=False).input_ids
    attempts = Slots.before(context, 1).attempts(torch.tensor(word * 2), [0, 1])
    assert attempts[0].prompt.split() == ["red", "a", "photo", "of", "a", "church"]
    assert attempts[0].added == "red"


@pytest.fixture
def vocabulary(make_context) -> Vocabulary:
    """Whole words of the tiny model."""
    return Vocabulary.of(make_context("bus"), TokenSettings(vocabulary="words"))


def test_the_genetic_search_finds_what_brute_force_does(make_context, vocabulary) -> None:
    context = make_context("bus")
    slots = Slots.alone(context, 2)
    wanted = context.family.embed_prompts(["a photo of a church"])[0]

    def loss(members: torch.Tensor) -> torch.Tensor:
        ids = slots.ids.expand(len(members), -1).masked_scatter(slots.free, members)
        with torch.no_grad():
            return (context.family.embed_tokens(ids) - wanted).square().sum(dim=(1, 2))

    every = torch.tensor(list(itertools.product(vocabulary.ids.tolist(), repeat=2)))
    best = every[loss(every).argmin()]
    generator = torch.Generator().manual_seed(0)
    found = genetic_search(loss, vocabulary, 2, population=40, generations=150, generator=generator)
    assert torch.equal(found[0], best)
    losses = loss(found)
    assert torch.equal(losses, losses.sort().values)


def test_the_genetic_search_finds_a_hidden_prompt(vocabulary) -> None:
    """A hidden prompt of five tokens, by the number of them that are in place."""
    generator = torch.Generator().manual_seed(0)
    hidden = vocabulary.ids[vocabulary.draw(5, generator)]
    counted = []

    def loss(members: torch.Tensor) -> torch.Tensor:
        counted.append(len(members))
        return (members != hidden).sum(dim=1).float()

    found = genetic_search(
        loss, vocabulary, 5, population=100, generations=150, generator=generator
    )
    assert sum(counted) <= 100 * 150 < len(vocabulary) ** 5 / 4000
    assert torch.equal(found[0], hidden)


def searched(search, wanted: torch.Tensor, generator: torch.Generator) -> list[float]:
    """The losses along a search for the tokens nearest to some points."""
    losses = []
    for _ in range(150):
        vectors = search.vectors(generator)
        known = torch.cdist(vectors, search.vocabulary.vectors).min(dim=1).values
        assert (known < 0.01).all()  # always tokens, never a mixture
        loss = (vectors - wanted).square().sum()
        losses.append(float(loss.detach()))
        loss.backward()
        search.update()
    return losses


def test_gradient_searches_against_brute_force(vocabulary) -> None:
    generator = torch.Generator().manual_seed(0)
    vocabulary = Vocabulary(vocabulary.ids, 50 * vocabulary.vectors)
    noise = torch.randn(2, vocabulary.vectors.shape[1], generator=generator)
    wanted = vocabulary.vectors[[2, 7]] + 0.3 * noise
    distances = torch.cdist(wanted, vocabulary.vectors).square()
    simplex = SimplexSearch(vocabulary, 2, 0.05, 0.0)
    searched(simplex, wanted, generator)
    assert torch.equal(simplex.tokens(), vocabulary.ids[distances.argmin(dim=1)])
    nearest = NearestSearch(vocabulary, 2, 0.1, 0.0, generator)
    losses = searched(nearest, wanted, generator)
    random = float(distances.mean(dim=1).sum())
    assert min(losses) < 0.8 * random
    assert sum(losses[-50:]) / 50 < random

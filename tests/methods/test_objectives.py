"""Erase term and preservation losses, each beside the formula written out by brute force."""

from __future__ import annotations

import pytest
import torch

from tests.methods.tasks import Task, clean_latents, prepared


def mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mean((a - b) ** 2)


def in_space(task: Task, space: str, z, timesteps, prediction, target) -> torch.Tensor:
    """The mean squared error of predicted noise, or of predicted clean latents."""
    if space == "epsilon":
        return mse(prediction, target)
    clean = [clean_latents(task.model, z, eps, timesteps) for eps in (prediction, target)]
    return mse(*clean)


def outer_pass(task: Task):
    """Latents, timesteps and prompts of the pass that the step back-propagates: its last."""
    last = task.passes[-1]
    assert last.differentiable
    return last.latents, last.timesteps, last.prompt_embeds


@pytest.mark.parametrize("space", ["epsilon", "z0"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("neutral", ["", "a photo"])
def test_erase_term(neutral: str, guidance: float, space: str) -> None:
    """|| eps'(c_e) - [eps(c_n) - g (eps(c_e) - eps(c_n))] ||^2"""
    task = prepared(
        *("none", "church", "banana"),
        neutral=neutral,
        negative_guidance=guidance,
        loss_space=space,
        batch_size=4,
    )
    output = task.method.training_step(3)
    z, t, c_e = outer_pass(task)
    assert len(z) == 4
    erased = task.embed("church", "banana")
    assert all(any(torch.equal(row, e) for e in erased) for row in c_e)
    with torch.no_grad():
        eps_e = task.frozen_noise(z, t, c_e)
        eps_n = task.frozen_noise(z, t, task.embed(neutral).expand(4, -1, -1))
        target = eps_n - guidance * (eps_e - eps_n)
        expected = in_space(task, space, z, t, task.trained_noise(z, t, c_e), target)
    assert output.record["erase_loss"] == pytest.approx(float(expected), rel=1e-3)
    assert output.loss.item() == pytest.approx(float(expected), rel=1e-3)
    assert output.record["preserve_loss"] == 0.0
    assert output.record["timestep"] == t.tolist()


@pytest.mark.parametrize("name", ["none", "neutral", "gumbel"])
def test_the_gradient_of_a_step_is_the_formula_s(name: str) -> None:
    """By autograd on the plain UNet; keep rows are taken from the pass as they are."""
    task = prepared(name, "church", negative_guidance=1.0, keep_weight=0.7, batch_size=3)
    output = task.method.training_step(0)
    z, t, c = outer_pass(task)
    names = list(task.context.parameters)
    found = torch.autograd.grad(output.loss, list(task.context.parameters.values()))
    with torch.no_grad():
        eps = task.frozen_noise(z, t, c)
        eps_n = task.frozen_noise(z, t, task.embed("").expand(len(z), -1, -1))
    trained = task.trained_noise(z, t, c)
    loss = mse(trained[:3], (2 * eps_n - eps)[:3])
    if name != "none":
        loss = loss + 0.7 * mse(trained[3:], eps[3:])
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-3)
    expected = torch.autograd.grad(loss, list(task.context.parameters.values()))
    for parameter, a, b in zip(names, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-6, msg=parameter)


@pytest.mark.parametrize("space", ["epsilon", "z0"])
@pytest.mark.parametrize("neutral", ["", "a photo"])
def test_neutral_keeps_c_n_on_the_erased_concept_s_latents(neutral: str, space: str) -> None:
    task = prepared("neutral", neutral=neutral, keep_weight=2.0, loss_space=space, batch_size=3)
    output = task.method.training_step(0)
    z, t, c = outer_pass(task)
    assert torch.equal(z[:3], z[3:])
    assert torch.equal(t[:3], t[3:])
    c_n = task.embed(neutral).expand(3, -1, -1)
    torch.testing.assert_close(c[3:], c_n)
    with torch.no_grad():
        prediction, target = (
            task.trained_noise(z[3:], t[3:], c_n),
            task.frozen_noise(z[3:], t[3:], c_n),
        )
        expected = in_space(task, space, z[3:], t[3:], prediction, target)
    assert output.record["preserve_loss"] == pytest.approx(float(expected), rel=1e-3)
    whole = output.record["erase_loss"] + 2.0 * float(expected)
    assert output.loss.item() == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("normalise", ["sum", "mean"])
def test_l2_is_the_squared_distance_of_the_weights(normalise: str) -> None:
    task = prepared("l2", normalise=normalise, keep_weight=0.3)
    output = task.method.training_step(0)
    frozen = dict(task.frozen.named_parameters())
    squares = [
        ((parameter - frozen[name]) ** 2).flatten()
        for name, parameter in task.model.unet.named_parameters()
    ]
    scoped = torch.cat([s for s, n in zip(squares, frozen, strict=True) if "attn2" in n])
    expected = (scoped.sum() if normalise == "sum" else scoped.mean()).item()
    assert expected > 0
    assert output.record["preserve_loss"] == pytest.approx(expected, rel=1e-4)
    assert output.loss.item() == pytest.approx(
        output.record["erase_loss"] + 0.3 * expected, rel=1e-4
    )
    (gradient,) = torch.autograd.grad(
        task.strategy.loss(None, None), [next(iter(task.context.parameters.values()))]
    )
    name, parameter = next(iter(task.context.parameters.items()))
    count = len(scoped) if normalise == "mean" else 1
    torch.testing.assert_close(gradient, 2 * (parameter - frozen[name]).detach() / count)


@pytest.mark.parametrize("keep_rows", [1, 3])
@pytest.mark.parametrize("name", ["random", "nearest", "argmax", "gumbel"])
def test_words_are_kept_on_their_own_latents(name: str, keep_rows: int) -> None:
    """The target of each kept row is the frozen model's prediction there."""
    task = prepared(name, "church", "bus", batch_size=4, keep_weight=1.0, keep_rows=keep_rows)
    output = task.method.training_step(0)
    z, t, c = outer_pass(task)
    kept = task.strategy.chosen
    assert len(c) == 4 + len(kept) == 4 + 4 * keep_rows
    assert torch.bincount(task.strategy.concepts).tolist() == [2 * keep_rows] * 2
    words = [task.strategy.space.words[i] for i in kept.tolist()]
    assert not {"church", "bus"} & set(words)
    assert torch.equal(c[4:], task.strategy.space.prompt_embeds[kept])
    torch.testing.assert_close(c[4:], task.embed(*words))
    with torch.no_grad():
        expected = mse(task.trained_noise(z, t, c)[4:], task.frozen_noise(z, t, c)[4:])
    assert output.record["preserve_loss"] == pytest.approx(float(expected), rel=1e-3)
    told = {row["erased"]: row["concept"] for row in output.record["adversary"]}
    assert sorted(told) == ["bus", "church"]
    assert set(words) == {w for text in told.values() for w in text.split(", ")}


def test_random_is_uniform_over_r() -> None:
    task = prepared("random", batch_size=50, keep_trajectories=1)
    counts = torch.zeros(len(task.strategy.space))
    batch = task.method.erased_batch(0)
    for step in range(60):
        object.__setattr__(batch, "step", step)
        counts += torch.bincount(task.strategy.choose(batch), minlength=len(counts))
    expected = 3000 / len(counts)
    assert float((((counts - expected) ** 2) / expected).sum()) < 3 * len(counts)


def test_nearest_keeps_the_nearest_by_brute_force() -> None:
    task = prepared("nearest", "church", "bus", neighbours=3, batch_size=8)
    space, pipeline = task.strategy.space, task.model.pipeline

    def pooled(text: str) -> torch.Tensor:
        tokens = pipeline.tokenizer(
            text, padding="max_length", max_length=16, return_tensors="pt"
        ).input_ids
        return pipeline.text_encoder(tokens).pooler_output[0]

    for e, concept in enumerate(["church", "bus"]):
        closeness = {
            word: float(torch.cosine_similarity(pooled(word), pooled(concept), dim=0))
            for word in space.words
        }
        nearest = sorted(closeness, key=closeness.__getitem__, reverse=True)[:3]
        found = [space.words[i] for i in task.strategy.neighbours[e].tolist()]
        assert found == nearest
    for step in range(4):
        record = task.method.training_step(step).record
        for e, row in enumerate(record["adversary"]):
            near = {space.words[i] for i in task.strategy.neighbours[e].tolist()}
            assert set(row["concept"].split(", ")) <= near


@pytest.mark.parametrize("how", ["random", "bounds"])
def test_argmax_keeps_the_words_harmed_most(how: str) -> None:
    """After enough scorings at a fixed theta', the hardest are those that brute force finds."""
    settings = {"refresh": 1, "candidates": 100, "hardest": 3, "memory": 0.9}
    task = prepared("argmax", **settings, candidates_by=how, batch_size=4)
    strategy = task.strategy
    for step in range(40):
        batch = task.method.erased_batch(step)
        strategy.ascend(batch)
    harm = brute_force_harm(task)
    hardest = set(harm.topk(3).indices.tolist())
    found = set(strategy.harm.topk(3).indices.tolist())
    assert len(hardest & found) >= 2
    assert int(harm.argmax()) in found
    assert set(strategy.choose(batch).tolist()) <= found


@pytest.mark.parametrize("batch_size", [0, 1, 4])
def test_argmax_scores_on_z_t_of_every_erased_concept(batch_size: int) -> None:
    """With a row a step and a scoring every other one, the rows are always of one concept."""
    task = prepared("argmax", "church", "bus", "car", batch_size=batch_size, refresh=2)
    strategy = task.strategy
    for step in (1, 3):
        task.passes.clear()
        strategy.ascend(task.method.erased_batch(step))
        trained, frozen = task.passes
        words = len(trained.latents) // 3
        assert words == min(16, len(strategy.space))
        latents = trained.latents.unflatten(0, (3, words))
        assert len(set(trained.timesteps.tolist())) == 1, "L2 at other timesteps is another size"
        kept = [torch.cat([part[0][:, s] for s in range(4)]) for part in concept_latents(task)]
        for own, known in zip(latents, kept, strict=True):
            assert torch.equal(own, own[:1].expand_as(own))
            assert (known - own[0]).flatten(1).abs().amax(dim=1).min() < 1e-6
        torch.testing.assert_close(trained.latents, frozen.latents)


def concept_latents(task: Task) -> list[tuple[torch.Tensor, ...]]:
    """What is kept of each erased concept: z_t and predictions, [N, S, C, h, w] each."""
    task.method.erased_source.sample_all()
    kept = task.method.erased_source._kept
    return [kept[concept] for concept in sorted(kept)]


def brute_force_harm(task: Task) -> torch.Tensor:
    """Mean relative L2 of each word of R over many z_t of the erased concepts, [K]."""
    space, source = task.strategy.space, task.method.erased_source
    rows = torch.arange(64) % len(task.context.erased_embeds)
    drawn = source.draw(rows, torch.Generator().manual_seed(1))
    harm = []
    for z, t in zip(drawn.latents, drawn.timesteps, strict=True):
        many = z.expand(len(space), -1, -1, -1), t.expand(len(space)), space.prompt_embeds
        with torch.no_grad():
            apart = task.trained_noise(*many) - task.frozen_noise(*many)
        errors = apart.square().flatten(1).mean(dim=1)
        harm.append(errors / errors.mean())
    return torch.stack(harm).mean(dim=0)


def errors_of(words: torch.Tensor, harm: torch.Tensor, step: int) -> torch.Tensor:
    """L2 of words whose relative harm is known, on a z_t where it is so many times as large."""
    noise = torch.randn(len(words), generator=torch.Generator().manual_seed(step))
    return harm[words] * (1 + 0.1 * noise) * 10.0 ** (step % 3 - 1)


def test_bounds_find_the_hardest_word_with_few_scorings() -> None:
    """Few candidates a time, on z_t whose L2 differ by two orders: most are of the hardest."""
    task = prepared("argmax", candidates=3, candidates_by="bounds", memory=0.9, hardest=2)
    strategy = task.strategy
    harm = torch.full((len(strategy.space),), 1.0)
    harm[[5, 7]] = torch.tensor([3.0, 2.5])
    times = torch.zeros(len(harm))
    for step in range(90):
        words = strategy.candidates(torch.Generator().manual_seed(step))
        times[words] += 1
        strategy.learn(words, errors_of(words, harm, step))
    assert strategy.hardest().tolist() == [5, 7]
    assert set(times.topk(2).indices.tolist()) == {5, 7}
    others = times[[i for i in range(len(harm)) if i not in (5, 7)]]
    assert others.min() >= 2, "what seemed harmless is looked at again"
    assert times[5] > 2 * others.mean()


def test_by_bounds_harm_does_not_depend_on_which_words_are_scored_together() -> None:
    """Harm of 4, 2, 1, 1 stays in these shares, whether the hard or the others come together."""
    task = prepared("argmax", num_concepts=4, candidates_by="bounds", memory=0.5)
    strategy, harm = task.strategy, torch.tensor([4.0, 2.0, 1.0, 1.0])
    strategy.learn(torch.arange(4), harm)
    for words, scale in (([0, 1], 7.0), ([2, 3], 0.1), ([1, 2], 3.0), ([0], 50.0)):
        strategy.learn(torch.tensor(words), scale * harm[words])
    torch.testing.assert_close(strategy.harm, harm / harm.mean())


def test_the_harm_of_words_that_nothing_has_moved_yet_is_learnt_later() -> None:
    strategy = prepared("argmax", num_concepts=4, candidates_by="bounds").strategy
    strategy.learn(torch.arange(4), torch.zeros(4))
    assert torch.equal(strategy.harm, torch.zeros(4))
    for _ in range(40):
        strategy.learn(torch.arange(4), torch.tensor([1.0, 3.0, 2.0, 2.0]))
    assert strategy.hardest().tolist()[0] == 1


@pytest.mark.parametrize("how", ["random", "bounds"])
def test_argmax_scores_every_word_once_before_any_twice(how: str) -> None:
    task = prepared("argmax", candidates=4, num_concepts=10, candidates_by=how)
    strategy, seen = task.strategy, []
    for step in range(3):
        words = strategy.candidates(torch.Generator().manual_seed(step))
        strategy.scored[words] = True
        seen += words.tolist()
    assert seen[:10] == list(range(len(strategy.space)))  # nearest first
    assert len(seen) == 12


def test_argmax_keeps_the_nearest_words_while_nothing_is_known() -> None:
    task = prepared("argmax", "church", hardest=3, move=0.0)
    task.strategy.ascend(task.method.erased_batch(0))
    assert not task.strategy.scored.any()
    assert set(task.strategy.choose(task.method.erased_batch(0)).tolist()) <= {0, 1, 2}


def test_a_mixture_is_the_mean_of_the_hardest_by_their_harm() -> None:
    task = prepared("argmax", hardest=3, mixture=True, batch_size=2, keep_weight=1.0)
    strategy = task.strategy
    strategy.harm[[4, 7, 2]] = torch.tensor([3.0, 2.0, 1.0])
    output = task.method.training_step(0)
    z, t, c = outer_pass(task)
    words = strategy.space.prompt_embeds
    mean = (3 * words[4] + 2 * words[7] + words[2]) / 6
    torch.testing.assert_close(c[2:], mean.expand(2, -1, -1))
    with torch.no_grad():
        expected = mse(task.trained_noise(z, t, c)[2:], task.frozen_noise(z, t, c)[2:])
    assert output.record["preserve_loss"] == pytest.approx(float(expected), rel=1e-3)
    assert set(strategy.chosen.tolist()) <= {4, 7, 2}


def test_a_mixture_of_words_that_were_never_scored_is_their_plain_mean() -> None:
    task = prepared("argmax", hardest=2, mixture=True, batch_size=1, keep_weight=1.0)
    task.method.training_step(0)
    mean = task.strategy.space.prompt_embeds[:2].mean(dim=0)
    torch.testing.assert_close(outer_pass(task)[2][1], mean)


@pytest.mark.parametrize(("batch_size", "rows"), [(0, 3), (1, 1), (4, 4)])
def test_rows_take_turns_over_the_erased_concepts(batch_size: int, rows: int) -> None:
    """With 0 every concept has its row in each step; else all have as many after some steps."""
    task = prepared("none", "church", "bus", "banana", batch_size=batch_size)
    drawn = [
        task.method.rows(step, torch.Generator().manual_seed(step)).tolist() for step in range(6)
    ]
    assert [len(step) for step in drawn] == [rows] * 6
    if batch_size == 0:
        assert all(sorted(step) == [0, 1, 2] for step in drawn)
    counts = [sum(step.count(concept) for step in drawn) for concept in range(3)]
    assert counts == [2 * rows] * 3


@pytest.mark.parametrize("name", ["gumbel", "random", "pgd"])
def test_ranks_are_by_the_harm_that_brute_force_finds(name: str) -> None:
    task = prepared(name, "church", harm_every=3, batch_size=2)
    for step in (1, 3, 4):
        (row,) = task.method.training_step(step).record["adversary"]
        assert ("rank" in row) == (step == 3)
        if step == 3:
            ranked = row
    measured, space = task.method._harm, task.strategy.space
    generator, total = torch.Generator().manual_seed(0), torch.zeros(len(space))
    for _ in range(measured.PROBES):
        drawn = measured.source.draw(torch.arange(len(space)), generator, shared_timestep=True)
        assert len(drawn.timesteps.unique()) == 1
        many = drawn.latents, drawn.timesteps, space.prompt_embeds
        with torch.no_grad():
            apart = task.trained_noise(*many) - task.frozen_noise(*many)
        errors = apart.square().flatten(1).mean(dim=1)
        total += errors / errors.mean()
    order = total.argsort(descending=True).tolist()
    named = (ranked["concept"] or ranked["nearest"]).split(", ")
    places = [order.index(space.words.index(word)) / (len(space) - 1) for word in named]
    assert ranked["rank"] == pytest.approx(sum(places) / len(places), abs=1e-6)


def test_nothing_is_ranked_where_nothing_is_chosen() -> None:
    task = prepared("neutral", harm_every=1)
    assert task.method.training_step(1).record["adversary"] is None

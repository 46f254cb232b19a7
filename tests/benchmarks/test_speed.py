"""What the measurements of speed rest on: variants of one edit, and paired differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from benchmarks.speed import adversary, levers, quality, solvers
from benchmarks.speed.ablation import VARIANTS, sampled_whole
from benchmarks.speed.bare import BarePasses
from benchmarks.speed.quality import deltas, esr_difference, report, verdict
from benchmarks.speed.runs import Bench, Run
from benchmarks.speed.timing import ratios
from erasekit.metrics.scores import Estimate

STEPS, WORDS, SOLVER = 4, 3, 8
OTHERS = {
    "z_t sampled anew from the current model",
    "8 solver steps of DDIM",
    "50 solver steps of DDIM",
    "kept words sampled with guidance",
    "pi with passes of its own",
    "pi with passes of its own, and the erase branch",
}
"""These have other z_t or draws of pi, so they are other runs, not the same one made dearer."""


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.icons()


@pytest.fixture(scope="module")
def runs(bench: Bench) -> dict[str, Run]:
    """With whole trajectories, so that no draw of words or solver steps decides what is sampled."""
    few = {"steps": STEPS, "num_concepts": WORDS}
    with sampled_whole():
        return {
            variant.name: replace(variant, settings={**variant.settings, **few}).run(
                bench, "church"
            )
            for variant in VARIANTS
        }


@pytest.mark.parametrize("name", [v.name for v in VARIANTS if v.name not in OTHERS])
def test_an_idea_switched_off_gives_the_same_edit(
    name: str, runs: dict[str, Run], bench: Bench
) -> None:
    base = bench.model.unet.state_dict()
    for key, tensor in runs["default"].tensors.items():
        moved = (tensor - base[key]).norm()
        assert (runs[name].tensors[key] - tensor).norm() <= 0.02 * moved, key


@pytest.mark.parametrize("name", [v.name for v in VARIANTS if "current model" not in v.name])
def test_an_idea_switched_off_is_never_cheaper(name: str, runs: dict[str, Run]) -> None:
    """But for z_t of the current model, which are few in a run of so few steps."""
    assert runs[name].cost >= runs["default"].cost


def test_passes_of_what_is_switched_off(runs: dict[str, Run]) -> None:
    default = runs["default"]
    own = runs["pi with passes of its own"]
    ascents = STEPS - 1  # none in the first step, where nothing has moved
    assert (own.forward - default.forward, own.backward - default.backward) == (ascents, ascents)
    both = runs["pi with passes of its own, and the erase branch"]
    assert (both.forward - own.forward, both.backward - own.backward) == (STEPS, STEPS)
    guided = runs["kept words sampled with guidance"]
    assert guided.forward - default.forward == WORDS * default.settings["trajectory_steps"]
    anew = runs["frozen predictions computed anew"]
    assert (anew.forward - default.forward) % STEPS == 0
    assert anew.forward > default.forward
    assert anew.backward == default.backward
    for name in ("erase and keep branch apart", "gradients for all parameters"):
        assert runs[name].cost == default.cost


def test_sampling_as_far_as_is_drawn_gives_the_same_edit_for_less(
    bench: Bench, runs: dict[str, Run]
) -> None:
    run = bench.ours(["church"], 0, {"steps": STEPS, "num_concepts": WORDS})
    base, whole = bench.model.unet.state_dict(), runs["default"]
    assert run.backward == whole.backward
    assert run.forward < whole.forward
    for key, tensor in run.tensors.items():
        assert (tensor - whole.tensors[key]).norm() <= 0.02 * (tensor - base[key]).norm(), key


def test_bare_passes_are_those_of_the_run(bench: Bench) -> None:
    names = [name for name, _ in bench.model.unet.named_parameters() if "attn2" in name]
    bare = BarePasses(bench.model.family, names)
    with bare.written():
        run = bench.ours(["church"], 0, {"steps": STEPS, "num_concepts": WORDS})
    forward, backward = [], []

    def seen(unet: Any, arguments: Any, output: Any) -> None:
        forward.append(len(output[0]))
        if output[0].requires_grad:
            output[0].register_hook(lambda gradient: backward.append(len(gradient)))

    hook = bench.model.unet.register_forward_hook(seen)
    bare.again()
    hook.remove()
    assert bare.forward == sum(forward) == run.forward
    assert sum(backward) == run.backward
    assert not any(p.requires_grad or p.grad is not None for p in bare.parameters)


@pytest.mark.parametrize(
    "way",
    [levers.channels_last, levers.plain_attention, levers.one_thread],
    ids=lambda w: w.__name__,
)
def test_a_lever_changes_how_a_pass_is_made_and_not_what_it_gives(bench: Bench, way: Any) -> None:
    unet = bench.model.unet
    processors, threads = unet.attn_processors, torch.get_num_threads()
    latents, embeds = torch.randn(2, 4, 16, 16), torch.randn(2, 12, 128)
    with torch.no_grad():
        plain = unet(latents, 500, embeds).sample
        with way(unet):
            found = unet(latents, 500, embeds).sample
    assert torch.allclose(found, plain, atol=1e-4)
    assert {type(p) for p in unet.attn_processors.values()} == {
        type(p) for p in processors.values()
    }
    assert torch.get_num_threads() == threads
    assert all(p.is_contiguous() for p in unet.parameters())


def test_the_published_schedule_counts_every_pass(bench: Bench) -> None:
    """A loop: 2 passes a solver step and trajectory, three frozen ones, two trained, both back-
    propagated where theta' moves and one where pi does."""
    run = bench.published("church", seed=0, steps=2)
    assert run.backward == 2 * 2 + 1
    sampled = run.forward - 3 * (3 + 2)
    assert sampled % 4 == 0
    assert 0 <= sampled <= 3 * 4 * 49


def test_ratios_are_taken_round_by_round() -> None:
    def run(seconds: float, forward: int) -> Run:
        return Run({}, forward, 0, seconds, {})

    base, other = ratios(
        {"a": [run(1.0, 10), run(2.0, 10)], "b": [run(3.0, 30), run(8.0, 30)]}, "a"
    )
    assert base["ratio_median"] == 1.0
    assert (other["ratio_min"], other["ratio_median"], other["ratio_max"]) == (3.0, 3.5, 4.0)
    assert other["passes_ratio"] == 3.0


def test_quality_is_the_paired_difference() -> None:
    lines = [
        _line(schedule, concept, seed, lost, esr1)
        for concept in ("church", "pistol")
        for seed in (0, 1)
        for schedule, lost, esr1 in (("published", 3.0, 1.0), ("erasekit", 3.2, 0.95))
    ]
    own, published = ([n for n in lines if n["schedule"] == s] for s in ("erasekit", "published"))
    ours, of, kept = deltas(own)
    theirs, _, _ = deltas(published)
    assert kept == ["beside church", "beside pistol"]
    assert of == ["church", "church", "pistol", "pistol"]
    apart = ours - theirs
    assert np.allclose(apart[np.isfinite(apart)], 0.2)
    apart = esr_difference(own, published)
    assert apart.value == pytest.approx(-5.0)
    assert apart.low < -5 < apart.high, "one of twenty noises differs, in all runs"
    text = report(lines[1:])
    assert text.count("| 4 |") == text.count("| 3 |") == 1
    assert "erasekit - published, 3 runs" in text
    text = report(lines)
    assert "delta +0.20 [+0.20, +0.20] (equal within 0.5)" in text
    assert "2.0 times fewer passes, 4.0 times less time [4.0 to 4.0]" in text
    assert "erasekit - " not in report(own)


@pytest.mark.parametrize(
    ("low", "high", "better", "words"),
    [
        (-0.4, 0.4, -1, "equal within 0.5"),
        (-0.9, 0.4, -1, "not worse by more than 0.5"),
        (-0.4, 0.9, -1, "not shown to be equal within 0.5"),
        (-0.4, 0.9, 1, "not worse by more than 0.5"),
        (-0.9, -0.1, -1, "better"),
        (-0.4, -0.1, -1, "equal within 0.5"),
        (float("nan"), float("nan"), 1, "no interval"),
    ],
)
def test_a_verdict_in_words(low: float, high: float, better: int, words: str) -> None:
    assert verdict(Estimate((low + high) / 2, 4, 4, low, high), 0.5, better) == words


def _line(schedule: str, concept: str, seed: int, lost: float, esr1: float) -> dict[str, Any]:
    before = {f"beside {concept}": [70.0 + seed, 71.0, 72.5]}
    return {
        "schedule": schedule,
        "concept": concept,
        "seed": seed,
        "passes": 200 if schedule == "published" else 100,
        "seconds": 8.0 if schedule == "published" else 2.0,
        "esr1": esr1,
        "gone": [number < 20 * esr1 for number in range(20)],
        "before": before,
        "after": {name: [value - lost for value in row] for name, row in before.items()},
    }


def searched(method: str, concept: str, drift: float, esr1: float = 1.0, **search: Any) -> Any:
    point = {"drift_near": drift, "drift_far": drift, "delta_near": 5.0, "delta_far": 0.0}
    before = {"step": 50, "passes": 700, "esr1": 0.5, **dict.fromkeys(point, 99.0)}
    return {
        "method": method,
        "settings": {"ascent_lr": 0.1} if search else {},
        "concept": concept,
        "seed": 0,
        "points": [before, {"step": 80, "passes": 1000, "esr1": esr1, **point}],
        "adversary": [search] if search else None,
    }


def test_searches_are_compared_run_by_run_where_the_concept_is_gone() -> None:
    lines = [
        searched("random", "bus", 1.0) | {"adversary": [{"entropy": None}]},
        searched("random", "castle", 3.0),
        searched("gumbel", "bus", 0.5, entropy=2.0),
        searched("gumbel", "castle", 2.5, entropy=1.0),
        searched("argmax", "bus", 1.0, esr1=0.5),
    ]
    rows = [
        [c.strip() for c in row.split("|")[1:-1]] for row in adversary.report(lines).split("\n")
    ]
    assert rows[2] == ["`random`", "2 of 2", "1,000", "2.00", "", "3.00", "", ""]
    gone = ["`gumbel ascent_lr=0.1`", "2 of 2", "1,000", "1.50", "-0.50 [-0.50, -0.50]"]
    assert rows[3] == [*gone, "3.00", "+0.00 [+0.00, +0.00]", "1.50"]
    assert rows[4] == ["`argmax`", "0 of 1", "", "", "", "", "", ""]
    assert "`gumbel ascent_lr=0.1` | 2 of 2" in adversary.report(lines[2:])  # random is yet to run


def test_the_grid_of_searches_has_each_run_once() -> None:
    jobs = adversary.jobs({"*": {"steps": 150}, "gumbel": {"keep_weight": 1.0}})
    keys = [adversary.key_of(job) for job in jobs]
    assert len(set(keys)) == len(keys)
    assert {"random", "nearest", "argmax", "gumbel"} == {job["method"] for job in jobs}
    (one, *_) = [job for job in jobs if job["method"] == "gumbel"]
    assert one["defaults"] == {"steps": 150, "keep_weight": 1.0}


def test_few_trailing_steps_come_nearer_than_few_of_the_model_s_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leading timesteps of 5 steps begin at 801, with the noise of 999."""
    monkeypatch.setattr(solvers, "CONCEPTS", ("church", "bus"))
    monkeypatch.setattr(solvers, "MANY", 40)
    monkeypatch.setattr(solvers, "STEPS", (5, 40))
    rows = {(r["spacing"], r["solver"], r["steps"]): r for r in solvers.measure(1)}
    assert rows["trailing", "ddim", 40]["error"] == pytest.approx(0, abs=1e-5)
    assert rows["trailing", "ddim", 40]["contrast"] == pytest.approx(1, abs=1e-5)
    for solver in ("ddim", "dpmsolver++"):
        assert rows["model", solver, 5]["error"] > 1.5 * rows["trailing", solver, 5]["error"]
    own = solvers.way(bench, "ddim", 5, "model")
    assert list(own) == [801, 601, 401, 201, 1]


def test_a_run_that_was_kept_is_not_made_again(bench: Bench, tmp_path: Path) -> None:
    settings = {"erasekit": ("published", {"steps": 2, "num_concepts": WORDS})}
    with patch.dict(quality.OURS, settings):
        first = quality._run(bench, "erasekit", "church", 0, tmp_path / "kept")
        with patch.object(Bench, "ours", side_effect=AssertionError("made again")):
            again = quality._run(bench, "erasekit", "church", 0, tmp_path / "kept")
    assert (again.cost, again.seconds, again.settings) == (
        first.cost,
        first.seconds,
        first.settings,
    )
    assert again.tensors.keys() == first.tensors.keys()
    assert all(torch.equal(again.tensors[k], v) for k, v in first.tensors.items())


def test_unseen_concepts_follow_from_their_rule(bench: Bench) -> None:
    """And none of them was looked at in tuning, nor is in the tables of quality."""
    objects = [c for c in bench.model.concepts if c.kind == "object"]
    family = {c.name: c.family for c in objects}
    seen = {family[name] for name in ("bus", "guitar", "castle", *quality.CONCEPTS)}
    first: dict[str, str] = {}
    for concept in objects:
        if concept.split == "held-out" and concept.family not in seen:
            first.setdefault(concept.family, concept.name)
    assert tuple(first.values())[:5] == quality.UNSEEN

"""Two benches held against each other, with made-up scores."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from erasekit.bench.compare import compare_benches
from erasekit.bench.records import Cell, Record
from erasekit.errors import ConfigError
from erasekit.metrics.scores import to_json
from tests.bench.made_up import record

EVALUATION = {
    "suite": "tiny",
    "suite_version": "1",
    "generation": {
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "scheduler": "a hash",
        "autoencoder": "a hash",
        "dtype": "torch.float32",
        "erasekit": "1.0",
    },
    "scorer": {"name": "clip", "weights": "a hash"},
    "labels": "a hash",
    "concepts": [[{"concept": "bus", "prompt": "bus", "noises": [0, 1, 2, 3, 4, 5]}]],
}


def bench(
    harms: dict[tuple[str, int], float], *, evaluation=EVALUATION, erased="church", **settings
) -> list[Record]:
    """A base record and one per (method, seed), with noise that two benches share."""

    def cell(method: str, seed: int) -> Cell:
        made_by = {"model": "m", "method": method, "settings": settings, "seed": seed}
        return Cell(method, erased, seed, {"erasure": made_by, "evaluation": evaluation})

    base = replace(
        record("base", 0, {"bus": [0.0] * 6}, erased=erased),
        cell=Cell("base", erased, 0, {"model": "m", "evaluation": evaluation}),
    )
    records = [base]
    for (method, seed), harm in harms.items():
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 3, 6)
        own = np.random.default_rng([seed, round(1000 * harm)]).normal(0, 0.1, 6)
        made = record(method, seed, {"bus": harm + noise + own, "car": noise}, erased=erased)
        records.append(replace(made, cell=cell(method, seed)))
    return records


def compared(a: list[Record], b: list[Record]):
    return compare_benches(a, b, ("runs/a", "runs/b"))


def test_only_what_differs_is_told_with_paired_intervals() -> None:
    a = bench({("none", 0): 3.0, ("none", 1): 3.0, ("l2", 0): 2.0, ("pgd", 0): 1.0}, keep=1)
    b = bench({("none", 0): 2.0, ("none", 1): 2.0, ("l2", 0): 2.0, ("l2", 1): 2.0}, keep=10)
    found = compared(a, b)
    (one,) = found.differing
    assert (one.method, one.erased, one.seeds) == ("none", "church", 2)
    assert one.changed == {"keep": (1, 10)}
    d = one.delta_difference
    assert d.value == pytest.approx(one.delta[1].value - one.delta[0].value)
    assert d.low < -0.5 < d.high < 0  # of 1 on one of two concepts
    assert one.p_value < 0.05
    assert one.verdict.startswith("none in B harms less than none in A: -0.5")
    assert [c.concept for c in one.concepts] == ["bus"]
    assert one.concepts[0].difference.value == pytest.approx(-1.0, abs=0.1)
    assert found.same == ("l2, church",)
    assert found.only_a == ("pgd, church, seed 0",)
    assert found.only_b == ("l2, church, seed 1",)


def test_one_concept_and_seed_are_the_paired_t_test() -> None:
    a, b = bench({("none", 0): 3.0}), bench({("none", 0): 2.5})
    (one,) = compared(a, b).differing
    after = [next(c for c in r[1].concepts if c.concept == "bus").after.scores for r in (a, b)]
    reference = stats.ttest_rel(*after)  # the un-erased image's score cancels out
    (bus,) = one.concepts
    assert bus.difference.value == pytest.approx(np.subtract(*after).mean())
    limits = reference.confidence_interval(0.95)
    reach = (limits.high - limits.low) / 2
    assert (bus.difference.high - bus.difference.low) / 2 == pytest.approx(reach, rel=0.1)


def test_erasure_is_compared_image_by_image() -> None:
    a, b = bench({("none", 0): 1.0}), bench({("none", 0): 1.5})
    weaker = record("none", 0, {}, gone=(True, False)).concepts[0]
    b[1] = replace(b[1], concepts=(weaker, *b[1].concepts[1:]))
    (one,) = compared(a, b).differing
    assert [rate.value for rate in one.esr1] == [1.0, 0.5]
    assert one.esr1_difference.value == -0.5
    assert one.esr1_difference.n == 2


def test_the_same_bench_has_no_differences() -> None:
    a = bench({("none", 0): 1.0, ("l2", 0): 2.0})
    found = compared(a, copy.deepcopy(a))
    assert found.differing == found.only_a == found.only_b == ()
    assert found.same == ("none, church", "l2, church")


def change(path: str, value: object) -> dict:
    evaluation = copy.deepcopy(EVALUATION)
    *parents, last = path.split(".")
    place = evaluation
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = value
    return evaluation


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("generation.guidance_scale", 3.0, "guidance (7.5 and 3.0)"),
        ("generation.num_inference_steps", 50, "sampling steps (20 and 50)"),
        ("generation.scheduler", "another", "sampler"),
        ("scorer.name", "other", "scorer (clip and other)"),
        ("scorer.weights", "another", "scorer (its weights or version)"),
        ("suite_version", "2", "suite (tiny 1 and tiny 2)"),
        ("concepts.0.0.prompt", "a bus", "prompts"),
        ("concepts.0.0.noises", [0, 1], "images per concept"),
        ("labels", "another", "classes"),
    ],
)
def test_what_was_not_measured_alike_is_refused_by_name(path, value, words) -> None:
    a = bench({("none", 0): 1.0})
    b = bench({("none", 0): 1.0}, evaluation=change(path, value))
    with pytest.raises(ConfigError) as caught:
        compared(a, b)
    assert str(caught.value) == (
        f"'runs/a' and 'runs/b' can't be compared, since they differ in {words}; measure both "
        "alike."
    )


def test_other_models_methods_and_sets_are_refused() -> None:
    a = bench({("none", 0): 1.0})
    other = [
        replace(r, cell=replace(r.cell, identity={**r.cell.identity, "model": "x"})) for r in a
    ]
    with pytest.raises(ConfigError, match="differ in model"):
        compared(a, other)
    with pytest.raises(ConfigError, match=r"no method in common.*'runs/b' has l2"):
        compared(a, bench({("l2", 0): 1.0}))
    with pytest.raises(ConfigError, match=r"no erased set in common.*'runs/b' has bus"):
        compared(a, bench({("none", 0): 1.0}, erased="bus"))


def test_other_code_is_no_reason_to_refuse_but_is_said() -> None:
    evaluation = change("generation.erasekit", "2.0")
    (one,) = compared(
        bench({("none", 0): 1.0}), bench({("none", 0): 1.1}, evaluation=evaluation)
    ).differing
    assert one.changed == {"images: erasekit": ("1.0", "2.0")}


def test_what_either_may_have_kept_on_purpose_is_not_held_out() -> None:
    a = bench({("none", 0): 3.0})
    b = [replace(r, exposed=("bus",)) for r in bench({("none", 0): 1.0})]
    (one,) = compared(a, b).differing
    assert one.delta_difference.value == 0.0  # of "car" alone
    assert one.concepts == ()


def test_the_json_has_no_nan() -> None:
    a, b = bench({("none", 0): 1.0}), bench({("none", 0): 1.5})
    data = to_json(compared(a, b))
    text = json.dumps(data, allow_nan=False)
    (one,) = json.loads(text)["differing"]
    assert one["delta_difference"]["value"] == pytest.approx(one["delta"][1] - one["delta"][0])
    assert set(one) >= {"method", "erased", "changed", "esr1_difference", "p_value", "verdict"}

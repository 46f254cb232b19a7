"""Methods against each other, and the concepts that each harms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from erasekit.bench.compare import compare_methods, paired_difference
from erasekit.bench.records import Record
from erasekit.bench.summary import harmed_share, summarise, summary_json
from erasekit.metrics.statistics import crossed_effect
from tests.bench.made_up import record

CONCEPTS = ("bus", "car", "road")


def sweep(
    harms: dict[str, float], *, seeds: int = 3, noises: int = 6, spread: float = 0.3, **more
) -> list[Record]:
    """Records whose deltas share the noise of their image, which pairing takes out."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 5, (len(CONCEPTS), noises))
    return [
        record(
            method,
            seed,
            {
                name: harm + shared[c] + rng.normal(0, spread, noises)
                for c, name in enumerate(CONCEPTS)
            },
            **more,
        )
        for method, harm in harms.items()
        for seed in range(seeds)
    ]


def of(records: list[Record], method: str) -> list[Record]:
    return [r for r in records if r.cell.method == method]


def test_a_difference_is_paired_by_concept_noise_and_seed() -> None:
    records = sweep({"gumbel": 1.0, "neutral": 1.6})
    deltas = np.array(
        [
            [[c.deltas for c in r.concepts if c.split == "held-out"] for r in of(records, m)]
            for m in ("gumbel", "neutral")
        ]
    )  # [methods, seeds, concepts, noises]
    expected = crossed_effect(
        (deltas[0] - deltas[1]).transpose(1, 2, 0), noises=[0] * len(CONCEPTS)
    )
    found = paired_difference(of(records, "gumbel"), of(records, "neutral"))
    limits = (found.estimate().interval, expected.estimate().interval)
    assert limits[0] == pytest.approx(limits[1])
    assert found.value == pytest.approx(deltas[0].mean() - deltas[1].mean())
    unpaired = stats.ttest_ind(deltas[0].ravel(), deltas[1].ravel()).pvalue
    assert found.p_value() < 0.05 < unpaired


def test_only_what_both_have_done_is_compared() -> None:
    records = sweep({"gumbel": 1.0, "neutral": 1.6})
    whole = paired_difference(of(records, "gumbel")[:2], of(records, "neutral")[:2])
    failed = Record(of(records, "neutral")[2].cell, "failed", error="RuntimeError")
    part = paired_difference(of(records, "gumbel"), [*of(records, "neutral")[:2], failed])
    assert part == whole
    assert part.seeds == 2


def test_every_pair_is_compared_once_and_corrected_for_all() -> None:
    summary = summarise(sweep({"none": 2.0, "gumbel": 1.0, "neutral": 1.2}))
    found = {(c.method, c.other): c for c in summary.comparisons}
    assert set(found) == {("gumbel", "none"), ("neutral", "none"), ("gumbel", "neutral")}
    records = sweep({"none": 2.0, "gumbel": 1.0, "neutral": 1.2})
    raw = {
        pair: paired_difference(of(records, pair[0]), of(records, pair[1])).p_value()
        for pair in found
    }
    order = sorted(raw, key=lambda pair: raw[pair])
    running = list(itertools.accumulate((raw[p] * (3 - i) for i, p in enumerate(order)), max))
    for pair, p in zip(order, running, strict=True):
        assert found[pair].p_value == pytest.approx(min(p, 1.0))
        assert found[pair].difference.value < 0


def test_the_verdict_is_a_plain_sentence_with_the_interval() -> None:
    (found,) = summarise(sweep({"neutral": 1.6, "gumbel": 1.0})).comparisons
    d = found.difference
    assert found.verdict == (
        f"gumbel harms less than neutral: {d.value:.2f} [{d.low:.2f}, {d.high:.2f}]"
    )
    assert found.seeds_needed is None
    assert d.low < -0.6 < d.high < 0


def test_what_can_not_be_told_says_how_many_seeds_it_would_take() -> None:
    rng = np.random.default_rng(1)
    records = [
        record(m, s, {"bus": np.full(6, harm + rng.normal(0, 1.0)) + rng.normal(0, 0.1, 6)})
        for m, harm in (("gumbel", 1.0), ("neutral", 2.0))
        for s in range(3)
    ]
    (found,) = compare_methods(
        summarise(records).rows,
        {m: of(records, m) for m in ("gumbel", "neutral")},
    )
    assert found.p_value > 0.05
    assert 3 < found.seeds_needed < 100
    assert found.verdict == (
        f"{found.method} can't be told from {found.other} at 3 seeds; about "
        f"{found.seeds_needed} would be needed"
    )


NOISY = [
    record("a", seed, {"bus": [1.0, 4.0, -2.0, 1.5 + seed / 10]}) for seed in range(3)
] + [record("b", seed, {"bus": [1.0] * 4}) for seed in range(3)]  # fmt: skip
"""The images differ by far more than the seeds."""


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (sweep({"a": 1.0, "b": 1.001}, seeds=1), "at 1 seed; more are needed to say how many"),
        (sweep({"a": 1.0, "b": 1.6}, seeds=1), "in these two edits (1 seed)"),
        (NOISY, "more seeds alone would hardly do"),
        (
            [record(m, s, {"bus": [d]}) for m, d in (("a", 1.0), ("b", 2.0)) for s in (0, 1)],
            "with one image per concept",
        ),
        ([record("a", 0, {"bus": [1.0]}), record("b", 1, {"bus": [1.0]})], "have no erasure seed"),
    ],
    ids=["one seed, near", "one seed, apart", "noise rules", "one noise", "no seed in common"],
)
def test_the_verdict_says_what_stands_in_the_way(records: list[Record], words: str) -> None:
    (found,) = summarise(records).comparisons
    assert words in found.verdict
    assert found.seeds_needed is None


def test_who_erases_less_is_said() -> None:
    records = sweep({"gumbel": 1.0}, gone=(True, False)) + sweep({"neutral": 1.6})
    (found,) = summarise(records).comparisons
    assert found.verdict.endswith(", and erases less: ESR-1 50 % against 100 %")


def test_the_best_is_marked_and_what_can_not_be_told_from_it() -> None:
    base = record("base", 0, {name: [0.0] * 6 for name in CONCEPTS})
    records = [base, *sweep({"none": 2.0, "gumbel": 1.0, "neutral": 1.0})]
    rows = {row.method: row for row in summarise(records).rows}
    assert sum(row.best for row in rows.values()) == 1
    assert rows["gumbel"].best or rows["neutral"].best
    assert rows["gumbel"].tied or rows["neutral"].tied
    assert not any((rows[m].best or rows[m].tied) for m in ("none", "base"))


def test_sets_are_compared_alone_and_together() -> None:
    records = sweep({"a": 1.0, "b": 2.0}) + sweep({"a": 1.0, "b": 1.5}, erased="truck")
    summary = summarise(records)
    assert [c.erased for c in summary.comparisons] == ["church", "truck", "all"]
    one, two, both = (c.difference.value for c in summary.comparisons)
    assert both == pytest.approx((one + two) / 2)


def test_harmed_concepts_are_those_whose_signs_and_holm_say_so() -> None:
    rng = np.random.default_rng(2)
    deltas = {f"harmed {i}": np.abs(rng.normal(3, 1, (9, 2))) for i in range(2)}
    deltas |= {f"unharmed {i}": rng.normal(0, 1, (9, 2)) for i in range(3)}
    deltas["missing"] = np.full((9, 2), np.nan)
    share, adjusted = harmed_share(deltas)
    raw = {
        name: stats.permutation_test(
            (values.mean(axis=1),), np.mean, permutation_type="samples", alternative="greater"
        ).pvalue
        for name, values in deltas.items()
        if name != "missing"
    }
    assert raw["harmed 0"] == 1 / 512
    assert adjusted["harmed 0"] == pytest.approx(5 / 512)
    assert {name for name, p in adjusted.items() if p < 0.05} == {"harmed 0", "harmed 1"}
    assert (share.value, share.n, share.missing, share.note) == (0.4, 5, 1, "")


@pytest.mark.parametrize(("noises", "concepts", "fewest"), [(2, 1, 5), (4, 3, 6), (8, 100, 11)])
def test_too_few_noises_are_nan_with_the_number_that_would_do(
    noises: int, concepts: int, fewest: int
) -> None:
    share, adjusted = harmed_share({str(i): np.full((noises, 1), 9.0) for i in range(concepts)})
    assert math.isnan(share.value)
    assert adjusted == {}
    assert f"({noises})" in share.note
    assert f"{fewest} would be the fewest" in share.note
    enough, _ = harmed_share({str(i): np.full((fewest, 1), 9.0) for i in range(concepts)})
    assert enough.value == 1.0


def test_harm_stands_in_the_rows_and_says_what_it_is_about() -> None:
    records = [
        record(m, s, {"bus": [d] * 8, "car": [0.0] * 8}, erased=erased)
        for erased in ("church", "truck")
        for m, d in (("base", 0.0), ("none", 4.0))
        for s in range(1 if m == "base" else 2)
    ]
    summary = summarise(records)
    base, none = summary.rows[:2]
    assert base.harmed is None
    assert (none.harmed.value, none.harmed.n) == (0.5, 2)
    assert (summary.overall[1].harmed.value, summary.overall[1].harmed.n) == (0.5, 4)
    assert any("with 2 erasure seeds, this is about these edits" in n for n in summary.notes)
    data = summary_json(summary)
    assert [row["harmed"] for row in data["rows"]] == [None, 0.5, None, 0.5]
    assert data["per_concept"][0]["p_harmed"] == pytest.approx(2 / 256)


def test_what_can_not_be_tested_is_null_with_its_reason() -> None:
    summary = summarise([record("none", 0, {"bus": [5.0, 6.0]})])
    row = summary_json(summary)["rows"][0]
    assert row["harmed"] is None
    assert "too few images per concept (2)" in row["harmed_note"]
    assert summary.notes == (f"Harmed concepts: {row['harmed_note']}.",)

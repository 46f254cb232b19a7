"""Observation 3: on records whose truth is known, and once for real."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from erasekit.bench.records import Cell, Record
from erasekit.bench.suites import is_neutral
from erasekit.concepts import Erasure
from erasekit.errors import ConceptError, ConfigError
from erasekit.metrics.scores import ConceptScores, Paired
from erasekit.observe.observation import common_suite, kept_words
from erasekit.observe.preserve import (
    held_out_names,
    natures_of,
    preserve,
    run_preserve,
    similarities_to,
)

ERASURE = Erasure.of("garbage truck")
SETS = (("car",), ("banana",), ("a photo",))
NATURES = ["related", "unrelated", "neutral"]
SIMILARITIES = [0.8, 0.1, 0.0]


@pytest.fixture
def common(suite):
    return common_suite(suite, [ERASURE])


def make_records(
    common, harm: dict[str, float], seeds=2, noises=6, spread=0.2, esr=None, drawn=1.0
):
    """`harm` is the true delta of every concept by what is kept ("" keeps nothing)."""
    records = []
    for kept in ((), *SETS):
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            label = "+".join(kept)
            concepts = []
            for page in common.evaluate(ERASURE):
                for what in page:
                    own = rng.normal(0, spread, noises)
                    if what.concept == "church":
                        own += rng.normal(0, 3, 1)  # the same with all that is kept
                    rank = (esr or {}).get(label, 9.0)
                    before = ConceptScores(
                        what.prompt, tuple(range(noises)), (30.0,) * noises, (drawn,) * noises
                    )
                    ranks = (rank,) * noises
                    after = replace(before, scores=tuple(30 - harm[label] - own), ranks=ranks)
                    concepts.append(Paired(what.concept, what.split, what.family, before, after))
            identity = {"erasure": {"settings": {}, "erasure": {"keep": list(kept)}}}
            cell = Cell("random" if kept else "none", ERASURE.label, seed, identity)
            records.append(Record(cell, "done", tuple(concepts)))
    return records


def judged(common, harm: dict[str, float], **options):
    return preserve(make_records(common, harm, **options), common, NATURES, SIMILARITIES)


def test_it_holds_where_the_related_one_saves_most(common) -> None:
    result = judged(common, {"": 5, "car": 1, "banana": 4, "a photo": 4.5})
    assert result.verdict == "held"
    assert result.concepts == ("bus", "church")  # held out, less what one of the erasures keeps
    assert [run.label for run in result.runs] == ["nothing", "car", "banana", "a photo"]
    assert [run.nature for run in result.runs] == ["none", *NATURES]
    assert result.runs[1].saved.value == pytest.approx(4)
    assert math.isnan(result.runs[0].similarity)
    lower = {c.other: c.lower for c in result.contrasts}
    assert set(lower) == {"nothing", "banana", "a photo"}
    assert lower["banana"].value == pytest.approx(3)
    assert result.sentence == (
        "Held, keeping a related concept lowers mean delta more than keeping another: with car "
        f"kept it is +4.00 [{4:.2f}, {4:.2f}] lower than with nothing kept, +3.00 [3.00, 3.00] "
        "lower than with banana kept, +3.50 [3.50, 3.50] lower than with a photo kept."
    )
    assert result.remarks == ()


def test_differences_are_paired_by_noise_and_seed(common) -> None:
    """Mean delta itself is uncertain; what all erasures share is not in the difference."""
    result = judged(common, {"": 5, "car": 1, "banana": 4, "a photo": 4.5}, spread=3.0)
    run = result.runs[1]
    assert run.delta.high - run.delta.low > 1
    assert run.saved.high - run.saved.low < 1e-6


def test_it_does_not_hold_where_another_one_saves_more(common) -> None:
    result = judged(common, {"": 5, "car": 3, "banana": 1, "a photo": 4.5}, seeds=1)
    assert result.verdict == "not held"
    assert result.sentence.startswith("Did not hold")
    assert "-2.00" in result.sentence
    assert "one erasure seed" in result.remarks[-1]


def test_erasures_that_differ_in_strength_are_remarked(common) -> None:
    result = judged(
        common, {"": 5, "car": 1, "banana": 4, "a photo": 4.5}, esr={"car": 1.0, "": 9.0}
    )
    assert result.remarks[0].startswith("The erasures differ too: ESR-1 is between 0 and 100 %")


def test_no_strength_is_compared_of_what_the_base_model_does_not_draw(common) -> None:
    harm = {"": 5, "car": 1, "banana": 4, "a photo": 4.5}
    assert judged(common, harm, esr={"car": 1.0}, drawn=9.0).remarks == ()


def test_several_related_ones_are_averaged(common) -> None:
    records = make_records(common, {"": 5, "car": 1, "banana": 3, "a photo": 4})
    result = preserve(records, common, ["related", "related", "neutral"], SIMILARITIES)
    assert {c.other: round(c.lower.value, 6) for c in result.contrasts} == {
        "nothing": 3.0,
        "a photo": 2.0,
    }
    assert "with car or banana kept" in result.sentence


def test_the_nearest_concept_that_is_not_neutral_is_the_related_one() -> None:
    assert natures_of(SETS, [0.1, 0.3, 0.9]) == ["unrelated", "related", "neutral"]
    assert natures_of(SETS, [0.1, 0.3, 0.9], ["car"]) == ["related", "unrelated", "neutral"]
    assert natures_of((("",), ("bus", "car")), [0.9, 0.1], ["bus+car"]) == ["neutral", "related"]


@pytest.mark.parametrize("word", ["", "a photo", "Photo", "an image", "picture"])
def test_neutral_words(word: str) -> None:
    assert is_neutral(word)
    assert not is_neutral(f"{word} of a bus")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: natures_of(SETS, SIMILARITIES, ["bus"]), "'bus' is not kept"),
        (lambda: natures_of((("",), ("a photo",)), [0, 0]), "neutral"),
        (lambda: natures_of(SETS[:2], [0, 0], ["car", "banana"]), "All that is kept is related"),
    ],
)
def test_what_can_not_be_compared_is_refused(call, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call()


def test_a_suite_needs_held_out_concepts_beside_the_kept(common) -> None:
    assert held_out_names(common, ["a banana"]) == ["bus", "church"]
    with pytest.raises(ConceptError, match="no held-out concept"):
        held_out_names(common, ["bus", "church", "banana"])


def test_for_real_and_again_for_nothing(runner, suite, make_sweep, registry) -> None:
    common = common_suite(suite, [ERASURE])
    sweep = replace(make_sweep("random"), suite=common)
    similarities = similarities_to(runner.model, ERASURE, SETS)
    assert similarities_to(runner.model, ERASURE, [("garbage truck", "bus")]) == [
        pytest.approx(1, abs=1e-5)
    ]
    records = run_preserve(runner, sweep, SETS)
    assert [kept_words(r) for r in records] == [(), *SETS]
    assert [r.cell.method for r in records] == ["none", "random", "random", "random"]
    edits = {r.edit for r in records}
    assert len(edits) == 4
    for record in records[1:]:
        history = runner.store.edit(record.edit)
        assert history is not None
        assert history.info["keep"] == list(kept_words(record))
    result = preserve(records, common, natures_of(SETS, similarities), similarities)
    assert all(not math.isnan(run.delta.value) for run in result.runs)
    passes = runner.model.passes.forward
    assert run_preserve(runner, sweep, SETS) == records
    assert runner.model.passes.forward == passes


def test_a_method_that_keeps_no_words_is_refused(runner, make_sweep) -> None:
    with pytest.raises(ConfigError, match="keeps no words"):
        run_preserve(runner, make_sweep("l2"), SETS)
    with pytest.raises(ConceptError, match="both erased and kept"):
        run_preserve(runner, make_sweep("random"), (("garbage truck",), ("bus",)))

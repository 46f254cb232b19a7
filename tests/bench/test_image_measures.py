"""Further measures, probes and many noises, through a whole sweep on the tiny model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from erasekit.bench.records import Record
from erasekit.bench.runner import BenchmarkRunner
from erasekit.bench.summary import summarise, summary_json
from erasekit.errors import ConfigError
from erasekit.metrics.base import Classifier, ImageMeasure
from erasekit.metrics.judges import Judges
from erasekit.metrics.scores import to_json

PROBES = (("a photo of a house", 3), ("a church", 12345))


class Change(ImageMeasure):
    """Mean change of the pixels since the base model; without a value where nothing changed."""

    name = "change"

    @property
    def identity(self) -> dict[str, str]:
        return {"name": self.name, "version": "1", "weights": ""}

    def measure(self, images, reference):
        change = (images.astype(float) - reference).mean(axis=(1, 2, 3))
        return {"change": np.where(change == 0, np.nan, change), "zero": 0 * change}


class Halves(Classifier):
    """Tells two classes apart by which half of the image is brighter."""

    name = "halves"
    labels = ("church", "bus")
    identity = {"name": "halves", "version": "1", "weights": ""}  # noqa: RUF012

    def classify(self, images, labels):
        upper = images[:, : images.shape[1] // 2].mean(axis=(1, 2, 3))
        lower = images[:, images.shape[1] // 2 :].mean(axis=(1, 2, 3))
        columns = {"church": upper, "bus": lower}
        return np.stack([columns[label] for label in labels], axis=1).astype(np.float32)


@pytest.fixture
def judged(runner, tiny_scorer, registry, store) -> BenchmarkRunner:
    judges = Judges(tiny_scorer, Halves(), (Change(),))
    return BenchmarkRunner(runner.model, judges, store)


def run(runner: BenchmarkRunner, sweep) -> list[Record]:
    return runner.run(sweep, runner.plan(sweep))


def test_measures_are_those_of_the_saved_images_by_noise(judged, make_sweep, store) -> None:
    sweep = make_sweep("none", erased="church")
    base, record = run(judged, sweep)
    drawn, after = store.images(base), store.images(record)
    seen: dict[str, list[float]] = {"erased": [], "held-out": [], "pool": []}
    for concept in record.concepts:
        change = after[concept.concept].astype(float) - drawn[concept.concept]
        expected = change.mean(axis=(1, 2, 3))
        np.testing.assert_allclose(concept.after.measures["change"], expected, rtol=1e-12)
        assert np.isnan(concept.before.measures["change"]).all()
        assert concept.after.measures["zero"] == (0.0,) * len(expected)
        seen[concept.split] += list(expected)
    rows = summarise([base, record]).rows
    for split, values in seen.items():
        assert rows[1].measures["change"][split].value == pytest.approx(np.mean(values))
    assert rows[0].measures["change"]["erased"].missing == 4
    data = summary_json(summarise([base, record]))["rows"]
    assert data[0]["measures"]["change"]["erased"] == {"mean": None, "n": 0, "missing": 4}
    assert data[1]["measures"]["zero"]["pool"]["mean"] == 0.0
    again = judged.store.record(record.cell.key)
    assert repr(again) == repr(record)


def test_a_classifier_ranks_among_its_own_classes(judged, make_sweep, store) -> None:
    base, record = run(judged, make_sweep("none", erased="church"))
    for side, drawn in (("before", store.images(base)), ("after", store.images(record))):
        for concept in record.concepts:
            ranks = getattr(concept, side).ranks
            if concept.concept not in Halves.labels:
                assert np.isnan(ranks).all()
                continue
            fits = Halves().classify(drawn[concept.concept], Halves.labels)
            own = fits[:, Halves.labels.index(concept.concept)]
            assert list(ranks) == [1 + (row > o).sum() for row, o in zip(fits, own, strict=True)]
    with pytest.raises(ConfigError, match="'halves' has no class 'castle'"):
        judged.plan(make_sweep("none", erased="castle"))


def test_who_judges_stands_in_every_record(judged, runner, make_sweep) -> None:
    sweep = make_sweep("none", erased="church")
    one, other = (r.plan(sweep).cells[0].cell for r in (judged, runner))
    evaluation = one.identity["evaluation"]
    assert evaluation["classifier"]["name"] == "halves"
    assert evaluation["measures"] == [Change().identity]
    assert other.identity["evaluation"]["classifier"]["name"] == "tiny-clip"
    assert one.key != other.key
    assert one.identity["erasure"] == other.identity["erasure"]


def test_probes_are_drawn_from_their_seeds_and_only_measured(judged, make_sweep, store) -> None:
    sweep = make_sweep("none", erased="church")
    plain = judged.plan(sweep)
    sweep = replace(sweep, suite=replace(sweep.suite, probes=PROBES))
    plan = judged.plan(sweep)
    assert plan.erased_sets[0].images == plain.erased_sets[0].images + 2
    base, record = judged.run(sweep, plan)
    probes = [c for c in record.concepts if c.split == "probe"]
    assert [(p.before.prompt, p.before.noises[0]) for p in probes] == list(PROBES)
    summary = summarise([base, record])
    with_probes, without = (
        summary.rows[1],
        summarise(run(judged, make_sweep("none", erased="church"))),
    )
    assert with_probes.measures["change"]["probe"].n == 2
    assert with_probes.delta == without.rows[1].delta
    assert with_probes.esr1 == without.rows[1].esr1
    assert not any(row.concept.startswith("prompt") for row in summary.per_concept)
    longer = replace(sweep.suite, probes=(*PROBES, ("church " * 99, 1)))
    assert longer.fitting(judged.model.family.check_prompt).probes == longer.probes
    skip = replace(longer, long_prompts="skip")
    assert skip.fitting(judged.model.family.check_prompt).probes == PROBES
    cut = run(judged, replace(sweep, suite=longer))
    assert [len(r.concepts) for r in cut] == [len(record.concepts) + 1] * 2


def test_many_noises_of_a_concept_are_several_sheets_and_one_pair(
    runner, make_sweep, store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erasekit.bench.prompts.SHEET", 16)
    sweep = make_sweep("none", erased="church")
    suite = replace(sweep.suite, spread=("bus",), images_per_concept=17, images_per_erased=20)
    split = run(runner, replace(sweep, suite=suite))
    assert len(split[1].sheets) == 2 + 2
    monkeypatch.setattr("erasekit.bench.prompts.SHEET", 64)
    whole = run(runner, replace(sweep, suite=suite))
    assert len(whole[1].sheets) == 2
    for one, other in zip(split[1].concepts, whole[1].concepts, strict=True):
        assert (one.concept, one.before.noises) == (other.concept, other.before.noises)
        np.testing.assert_allclose(one.after.scores, other.after.scores, atol=0.5)
        assert len(store.images(split[1])[one.concept]) == len(one.after.scores)
    assert json.dumps(to_json(split[1]))

"""Captions in a sweep: CLIP score, measures of all their images together, and the suite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from erasekit.bench.prompts import coco_captions, read_prompts
from erasekit.bench.runner import BenchmarkRunner
from erasekit.bench.suites import general
from erasekit.bench.summary import summarise, summary_json
from erasekit.errors import ConfigError
from erasekit.metrics.base import SetMeasure
from erasekit.metrics.judges import Judges
from erasekit.metrics.judges.fid import frechet_distance
from erasekit.metrics.scores import Estimate


def read_captions(source: str, most: int) -> tuple[tuple[str, int], ...]:
    return read_prompts(source, ("caption", "prompt"), most).prompts


CAPTIONS = tuple((f"a {colour} {thing}", seed)
                 for seed, colour in enumerate(("red", "photo of", "large"))
                 for thing in ("car", "bus", "church", "house", "banana", "road"))  # fmt: skip


class Colours(SetMeasure):
    """Frechet distance of mean colours; counts the images that it looks at."""

    name = "colours"
    extractor = identity = {"name": "colours", "version": "1", "weights": ""}  # noqa: RUF012

    def __init__(self, reference: np.ndarray | None = None) -> None:
        self.looked_at, self._rows = 0, reference

    @property
    def reference(self) -> str:
        return "" if self._rows is None else "rows"

    def features(self, images):
        self.looked_at += len(images)
        return images.mean(axis=(1, 2)).astype(np.float32)

    def reference_features(self):
        return self._rows

    def compare(self, features, reference):
        distance = frechet_distance(features, reference)
        return {"colours": Estimate(distance, len(features), note="of colours")}


@pytest.fixture
def captioned(make_sweep):
    sweep = make_sweep("none", erased="church", seeds=2)
    return replace(sweep, suite=replace(sweep.suite, captions=CAPTIONS, spread=("bus",)))


def judged(runner, measure: SetMeasure) -> BenchmarkRunner:
    judges = Judges(runner.scorer.scorer, runner.scorer.classifier, sets=(measure,))
    return BenchmarkRunner(runner.model, judges, runner.store)


def colours(images: dict[str, np.ndarray]) -> np.ndarray:
    rows = [pictures for name, pictures in images.items() if name.startswith("caption")]
    return np.concatenate(rows).mean(axis=(1, 2)).astype(np.float32).astype(float)


def by_formula(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (np.cov(rows, rowvar=False) for rows in (one, other))
    apart = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    return float(apart + np.trace(a + b - 2 * np.real(sqrtm(a @ b))))


def test_a_set_is_measured_from_the_saved_images_and_kept(runner, captioned, store) -> None:
    first = judged(runner, Colours())
    records = first.run(captioned, first.plan(captioned))
    base, *runs = [colours(store.images(record)) for record in records]
    assert base.shape == (len(CAPTIONS), 3)
    for record, rows in zip(records[1:], runs, strict=True):
        assert record.sets["colours"].value == pytest.approx(by_formula(rows, base), rel=1e-4)
        assert record.sets["colours"].n == len(CAPTIONS)
    assert records[0].sets == {}
    assert first.scorer.sets[0].looked_at == 3 * len(CAPTIONS)

    row = summarise(records).rows[1]
    values = [record.sets["colours"].value for record in records[1:]]
    assert row.measures["colours"]["caption"].value == pytest.approx(np.mean(values))
    assert "of colours." in summarise(records).notes
    scores = [s for r in records[1:] for c in r.concepts if c.split == "caption"
              for s in c.after.scores]  # fmt: skip
    found = summary_json(summarise(records))["rows"]
    assert found[1]["measures"]["clip-score"]["caption"] == {
        "mean": pytest.approx(np.mean(scores)), "n": 2 * len(CAPTIONS), "missing": 0
    }  # fmt: skip
    assert found[0]["measures"]["clip-score"]["caption"]["n"] == len(CAPTIONS)
    assert "colours" not in found[0]["measures"]
    again = store.record(records[1].cell.key)
    assert repr(again) == repr(records[1])

    # A record that is gone is written again without looking at an image, to the last bit.
    (store.root / "cells" / f"{records[1].cell.key}.json").unlink()
    second = judged(runner, Colours())
    assert repr(second.run(captioned, second.plan(captioned))[1].sets) == repr(records[1].sets)
    assert second.scorer.sets[0].looked_at == 0


def test_captions_are_no_held_out_concepts(runner, captioned) -> None:
    plain = replace(captioned, suite=replace(captioned.suite, captions=()))
    with_captions, without = (
        summarise(runner.run(sweep, runner.plan(sweep))) for sweep in (captioned, plain)
    )
    for one, other in zip(with_captions.rows, without.rows, strict=True):
        assert (one.delta, one.psr1, one.esr1) == (other.delta, other.psr1, other.esr1)
    assert len(with_captions.per_concept) == len(without.per_concept)


def test_a_reference_measures_the_base_model_too(runner, captioned, store) -> None:
    reference = np.random.default_rng(1).normal(120, 20, (30, 3)).astype(np.float32)
    own = judged(runner, Colours(reference))
    records = own.run(captioned, own.plan(captioned))
    for record in records:
        expected = by_formula(colours(store.images(record)), reference.astype(float))
        assert record.sets["colours"].value == pytest.approx(expected, rel=1e-4)


def test_the_suite_on_a_model_with_and_without_a_list(registry, tiny_model) -> None:
    icons = general(registry.model("icons"))
    assert icons.captions_from == ""
    assert len(set(icons.captions)) == len(icons.captions) > 50
    named = {concept.name for concept in icons.concepts}
    for text, _ in icons.captions:
        assert text in named or text.partition(" of ")[2] in named
    photographs = general(registry.model("sd1.4"))
    assert photographs.captions == ()
    assert photographs.captions_from
    assert {c.name for c in photographs.concepts} >= {*photographs.spread, *photographs.cases}
    assert photographs.optional_measures == ("fid",)


def test_captions_of_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text('id,caption,seed\n1,"a dog,\n  asleep",7\n2,two  cats,8\n3,,9\n1,two cats,8\n')
    assert read_captions(str(path), 9) == (("a dog, asleep", 7), ("two cats", 8))
    path.write_text("prompt\n" + "".join(f"thing {i}\n" for i in range(40)))
    every = read_captions(str(path), 99)
    assert [text for text, _ in every] == [f"thing {i}" for i in range(40)]
    some, fewer = read_captions(str(path), 20), read_captions(str(path), 5)
    assert (len(some), len(fewer)) == (20, 5)
    assert set(fewer) < set(some) < set(every)
    assert list(some) == [caption for caption in every if caption in some]


def test_captions_of_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert coco_captions() is None
    (tmp_path / "annotations").mkdir()
    annotations = [
        {"image_id": 9, "id": 4, "caption": "A bus. \n"},
        {"image_id": 2, "id": 6, "caption": "A second one of the dog."},
        {"image_id": 2, "id": 5, "caption": "A dog."},
    ]
    text = json.dumps({"info": {}, "annotations": annotations})
    (tmp_path / "annotations" / "captions_val2014.json").write_text(text)
    found = coco_captions()
    assert found == "annotations/captions_val2014.json"
    assert [caption for caption, _ in read_captions(found, 9)] == ["A dog.", "A bus."]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "text\nx\n", "no column 'caption'"),
        ("a.csv", "caption\n", "no captions"),
        ("a.csv", "caption,seed\nx,two\n", "the seed 'two'"),
        ("a.json", "{}", "not COCO's captions"),
        ("a.json", '{"annotations": [{"id": 1}]}', "not COCO's captions"),
        ("a.json", "no json", "not COCO's captions"),
    ],
)
def test_odd_files_are_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_captions(str(tmp_path / name), 9)
    with pytest.raises(ConfigError, match="can't be read"):
        read_captions(str(tmp_path / "nowhere.csv"), 9)

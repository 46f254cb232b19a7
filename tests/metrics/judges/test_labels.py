"""Class labels with aliases, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from erasekit.metrics.judges.labels import LabelSet

CLASSES = [("garbage truck", "truck a"), ("church",), ("car", "red car", "blue car")]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)


def test_an_alias_counts_as_its_class(tiny_scorer, images) -> None:
    labels = LabelSet(CLASSES)
    logits = labels.logits(tiny_scorer, images)
    for column, names in enumerate(CLASSES):
        each = [tiny_scorer.classify(images, [name])[:, 0] for name in names]
        np.testing.assert_allclose(logits[:, column], np.max(each, axis=0), atol=1e-6)
    assert labels.index("Blue  car") == 2


def test_ranks_agree_with_sorting(tiny_scorer, images) -> None:
    labels = LabelSet(CLASSES)
    targets = [CLASSES[i % 3][-1] for i in range(len(images))]
    logits = labels.logits(tiny_scorer, images)
    expected = [
        list(np.argsort(-row, kind="stable")).index(i % 3) + 1 for i, row in enumerate(logits)
    ]
    assert labels.ranks(tiny_scorer, images, targets) == expected
    assert set(expected) > {1}


def test_the_template_is_put_around_each_name(tiny_scorer, images) -> None:
    plain = LabelSet([("a photo of church",)])
    templated = LabelSet([("church",)], "a photo of {}")
    np.testing.assert_array_equal(
        plain.logits(tiny_scorer, images), templated.logits(tiny_scorer, images)
    )


def test_a_concept_outside_the_list_becomes_a_class_of_its_own() -> None:
    labels = LabelSet(CLASSES)
    assert labels.including(["RED car", "motor"]) is labels
    grown = labels.including(["banana", "yellow fruit"])
    assert len(grown) == 4
    assert grown.index("yellow fruit") == 3
    with pytest.raises(KeyError):
        labels.index("banana")


def test_a_name_of_two_classes_belongs_to_the_first() -> None:
    assert LabelSet([("bus", "coach"), ("trainer", "coach")]).index("coach") == 0


def test_an_image_that_the_scorer_cannot_judge_has_no_rank(tiny_scorer, images) -> None:
    class Blind:
        def classify(self, images, labels):
            fits = tiny_scorer.classify(images, labels).copy()
            fits[0] = np.nan
            return fits

    first, second = LabelSet(CLASSES).ranks(Blind(), images[:2], ["church", "church"])
    assert np.isnan(first)
    assert second >= 1

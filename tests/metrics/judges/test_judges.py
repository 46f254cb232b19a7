"""Judges by name: where they run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erasekit.metrics.base import Classifier, ImageMeasure, Scorer, SetMeasure
from erasekit.metrics.judges import load_judges, load_scorer
from erasekit.metrics.scores import Score
from erasekit.plugin.descriptors import ScorerDescriptor
from erasekit.plugin.hookspecs import hookimpl

META = torch.device("meta")
HOME = "tests.metrics.judges.test_judges"


class _Spy:
    """A judge that says where it runs."""

    name = "spy"
    identity = {"name": "spy", "version": "1", "weights": ""}  # noqa: RUF012

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        self.device = device


class SpyClassifier(_Spy, Classifier):
    def classify(self, images, labels):
        return np.zeros((len(images), len(labels)), dtype=np.float32)


class SpyScorer(SpyClassifier, Scorer):
    def score(self, images, prompts):
        return [Score(0.0, prompt, self.name) for prompt in prompts]


class SpyMeasure(_Spy, ImageMeasure):
    def measure(self, images, reference):
        return {}


class SpySet(_Spy, SetMeasure):
    extractor = _Spy.identity

    def features(self, images):
        return np.zeros((len(images), 1), dtype=np.float32)

    def compare(self, features, reference):
        return {}


class NoDevice(SpyScorer):
    """As a plugin's scorer that knows of no devices."""

    def __init__(self) -> None:
        super().__init__(device="its own")


class Plugin:
    @hookimpl
    def erasekit_register_scorers(self) -> list[ScorerDescriptor]:
        names = ("SpyClassifier", "SpyScorer", "SpyMeasure", "SpySet", "NoDevice")
        found = [ScorerDescriptor(name, "", f"{HOME}:{name}") for name in names]
        fixed = ScorerDescriptor("fixed", "", f"{HOME}:SpyScorer", options={"device": "cuda:1"})
        return [*found, fixed]


@pytest.fixture
def spies(registry):
    registry.manager.register(Plugin(), "spies")
    return registry


def test_every_judge_is_put_on_the_device(spies) -> None:
    judges = load_judges(
        spies,
        "SpyScorer",
        classifier="SpyClassifier",
        measures=("SpyMeasure",),
        optional=("SpySet",),
        device=META,
    )
    found = [judges.scorer, judges.classifier, *judges.measures, *judges.sets]
    assert [(type(judge).__name__, judge.device) for judge in found] == [
        ("SpyScorer", META),
        ("SpyClassifier", META),
        ("SpyMeasure", META),
        ("SpySet", META),
    ]


def test_a_scorer_that_takes_no_device_or_was_registered_with_one_keeps_its_own(spies) -> None:
    assert load_scorer("NoDevice", spies, device=META).device == "its own"
    assert load_scorer("fixed", spies, device=META).device == "cuda:1"


@pytest.mark.parametrize("name", ["icons-clip", "icons-distance", "local-dir"])
def test_built_in_judges_go_there_too(
    registry, name: str, tiny_scorer_folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spied(model: str, pretrained: str, device: torch.device):
        seen.append(device)
        raise InterruptedError

    monkeypatch.setattr("erasekit.metrics.judges.open_clip._load", spied)
    wanted = f"{name}:{tiny_scorer_folder}" if name == "local-dir" else name
    with pytest.raises(InterruptedError):
        load_scorer(wanted, registry, device=META)
    assert seen == [META]

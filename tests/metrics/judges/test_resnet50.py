"""ResNet-50 against torchvision by hand. The weights are random, in the real layout."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import ResNet50_Weights, resnet50

from erasekit.bench.suites import IMAGENETTE
from erasekit.errors import ConfigError, MissingWeightsError, ModelError
from erasekit.metrics.judges import Judges, load_judge, load_judges, load_scorer
from erasekit.metrics.judges.labels import LabelSet
from erasekit.metrics.judges.resnet50 import ResNet50


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return resnet50().eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet50") / "resnet50.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def classifier(weights: Path) -> ResNet50:
    return ResNet50(str(weights))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


def test_ranks_are_those_of_torchvision_by_hand(classifier, network, images, tiny_scorer) -> None:
    preprocess = ResNet50_Weights.IMAGENET1K_V2.transforms()
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        logits = network(pixels).numpy()
    names = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    np.testing.assert_allclose(classifier.classify(images, names), logits, atol=1e-4)
    two = classifier.classify(images, ["church", "english SPRINGER"])
    columns = [names.index("church"), names.index("English springer")]
    np.testing.assert_allclose(two, logits[:, columns], atol=1e-4)

    labels = Judges(tiny_scorer, classifier).labels(LabelSet([("church",)], "a photo of {}"))
    ranks = labels.ranks(classifier, images, ["church", "english springer", "xyzzy"])
    expected = [
        1 + int((logits[row] > logits[row, column]).sum()) for row, column in enumerate(columns)
    ]
    assert ranks[:2] == expected
    assert np.isnan(ranks[2])


def test_the_ten_classes_are_among_its_own(classifier) -> None:
    assert len(set(classifier.labels)) == 1000
    assert {label.lower() for label in classifier.labels} >= set(IMAGENETTE)


def test_an_erased_concept_that_is_no_class_is_refused(classifier, tiny_scorer) -> None:
    judges = Judges(tiny_scorer, classifier)
    labels = judges.labels(LabelSet([]))
    assert judges.including(labels, ("garbage truck", "bin lorry")) is labels
    with pytest.raises(ConfigError, match=r"no class 'nudity'.*tiny-clip"):
        judges.including(labels, ("nudity",))


def test_identity_follows_the_weights(classifier, network, tmp_path: Path) -> None:
    other = {name: value.clone() for name, value in network.state_dict().items()}
    other["fc.bias"][0] += 1
    save_file(other, tmp_path / "other.safetensors")
    identity = ResNet50(str(tmp_path / "other.safetensors")).identity
    assert identity["weights"] != classifier.identity["weights"]
    assert identity["version"].startswith("torchvision ")


def test_a_pickle_is_refused_with_the_command_that_converts_it(network, tmp_path: Path) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(ModelError, match="are a pickle") as caught:
        ResNet50(str(path))
    command = shlex.split(str(caught.value).partition("convert it with: ")[2].removesuffix("."))
    subprocess.run([sys.executable, *command[1:]], check=True)
    ResNet50(str(path.with_suffix(".safetensors")))


def test_other_weights_are_one_sentence(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "few.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for name, words in (
        ("few", "not those of resnet50"),
        ("bad", "can't be read"),
        ("none", "can't be read"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            ResNet50(str(tmp_path / f"{name}.safetensors"))
        assert "\n" not in str(caught.value)
    with pytest.raises(MissingWeightsError, match=r"--weights resnet50=FILE\.safetensors"):
        ResNet50()


def test_a_preferred_classifier_gives_way_to_the_scorer_and_a_chosen_one_does_not(
    registry, tiny_scorer_folder: Path, weights: Path
) -> None:
    scorer = f"local-dir:{tiny_scorer_folder}"
    judges = load_judges(registry, scorer, preferred="resnet50")
    assert judges.classifier is judges.scorer
    assert judges.identity["classifier"] == judges.identity["scorer"]
    with pytest.raises(MissingWeightsError):
        load_judges(registry, scorer, classifier="resnet50", preferred="resnet50")
    files = {"resnet50": str(weights)}
    judges = load_judges(registry, scorer, preferred="resnet50", files=files)
    assert judges.classifier is not judges.scorer
    assert judges.identity["classifier"]["name"] == "resnet50"


def test_judges_do_what_they_are_named_for(registry, tiny_scorer_folder, weights) -> None:
    scorer, files = f"local-dir:{tiny_scorer_folder}", {"resnet50": str(weights)}
    with pytest.raises(ConfigError, match="no alignment"):
        load_scorer("resnet50", registry, files)
    with pytest.raises(ConfigError, match="no measure"):
        load_judges(registry, scorer, measures=["resnet50"], files=files)
    with pytest.raises(ConfigError, match="does not judge here"):
        load_judges(registry, scorer, files=files)
    with pytest.raises(ConfigError, match="takes no file of weights"):
        load_judge("icons-clip", registry, {"icons-clip": "x"})

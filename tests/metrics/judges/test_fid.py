"""FID's measure. Inception is random, in the real layout: its weights can't be had here."""

from __future__ import annotations

import builtins
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.linalg import sqrtm

from erasekit.errors import ConfigError, MissingExtraError, MissingWeightsError, ModelError
from erasekit.metrics.judges import load_judges


@pytest.fixture(scope="module")
def network():
    """torch-fidelity's network with seeded random weights, its statistics in the usual range."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Inception(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state, *_, **__):
            assert not state

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(3)
    return Inception("inception", ["2048"], empty)


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)


def test_features_are_the_networks_however_they_are_batched(network, weights, images) -> None:
    from erasekit.metrics.judges.fid import FID

    measure = FID(weights)
    found = measure.features(images)
    assert found.shape == (5, 2048)
    assert found.std(axis=0).max() > 0
    with torch.no_grad():
        expected = network(torch.tensor(images).permute(0, 3, 1, 2))[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    alone = np.concatenate([measure.features(image[None]) for image in images])
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-6)
    assert measure.features(images[:0]).shape == (0, 2048)


def test_the_distance_is_of_those_that_are_there(weights, images) -> None:
    from erasekit.metrics.judges.fid import FID

    measure = FID(weights)
    rng = np.random.default_rng(1)
    one, other = (rng.normal(size=(60, 8)).astype(np.float32) for _ in range(2))
    one[:3] = np.nan
    found = measure.compare(one, other[:50])["fid"]
    assert (found.n, found.missing) == (57, 3)
    assert "FID of 50 images is biased upwards" in found.note
    a, b = (np.cov(rows.astype(float), rowvar=False) for rows in (one[3:], other[:50]))
    apart = one[3:].mean(axis=0) - other[:50].mean(axis=0)
    expected = (apart**2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert found.value == pytest.approx(expected, rel=1e-5)
    many = np.tile(other, (35, 1))
    assert measure.compare(many, many)["fid"].note == ""
    none = measure.compare(one[3:4], other)["fid"]
    assert np.isnan(none.value)
    assert none.note


def test_a_reference_is_a_folder_of_pictures(weights, images, tmp_path: Path) -> None:
    from erasekit.metrics.judges.fid import FID

    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    plain, held = FID(weights), FID(weights, str(tmp_path))
    assert plain.reference == ""
    assert held.reference
    assert held.extractor == plain.extractor
    assert held.identity != plain.identity
    found = held.reference_features()
    np.testing.assert_allclose(found, plain.features(images), rtol=1e-4, atol=1e-6)
    assert held.compare(found, found)["fid"].value == pytest.approx(0, abs=1e-6)
    wide = np.concatenate([images[0][:, :10] * 0, images[0], images[0][:, :10] * 0], axis=1)
    Image.fromarray(wide).save(tmp_path / "0.png")
    again = FID(weights, str(tmp_path))
    assert again.reference != held.reference
    np.testing.assert_allclose(again.reference_features(), found, rtol=1e-4, atol=1e-6)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"1\.png' can't be read"):
        FID(weights, str(tmp_path)).reference_features()
    with pytest.raises(ConfigError, match="no folder of images"):
        FID(weights, str(tmp_path / "nowhere"))


def test_weights_of_another_network_are_refused(weights, tmp_path: Path) -> None:
    from erasekit.metrics.judges.fid import FID

    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="not those of fid"):
        FID(str(tmp_path / "odd.safetensors"))
    with pytest.raises(ModelError, match="are a pickle"):
        FID("inception.pth")


def test_a_suites_fid_gives_way_and_a_users_does_not(
    registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges = load_judges(registry, "icons-clip", optional=("fid",))
    assert judges.sets == ()
    (sentence,) = judges.left_out
    assert sentence.startswith("fid is left out: fid needs its weights as a file")
    with pytest.raises(MissingWeightsError, match="or go without: --measures none"):
        load_judges(registry, "icons-clip", measures=("fid",))
    with pytest.raises(MissingWeightsError):
        load_judges(registry, "icons-clip", optional=("fid",), reference="pictures")
    with pytest.raises(ConfigError, match="--reference 'pictures'"):
        load_judges(registry, "icons-clip", reference="pictures")

    genuine = builtins.__import__

    def without(name: str, *rest, **more):
        if name.startswith("torch_fidelity"):
            raise ImportError(name)
        return genuine(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'erasekit\[fid\]'"):
        load_judges(registry, "icons-clip", optional=("fid",), files={"fid": "x.safetensors"})

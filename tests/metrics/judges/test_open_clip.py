"""The open_clip scorer against open_clip itself, written out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import functional as F

from erasekit.errors import ErasekitError, ModelError, UnknownNameError
from erasekit.metrics.judges import load_scorer
from erasekit.metrics.judges.open_clip import OpenClipScorer, open_clip_folder
from tests.tiny_clip import MEAN, STD, build_scorer_folder


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def reference_cosines(folder: Path, images: np.ndarray, texts: list[str]) -> np.ndarray:
    """Cosines by hand: preprocessing from the configuration, towers from open_clip."""
    network = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    pixels = torch.stack(
        [
            F.normalize(
                F.to_tensor(F.resize(Image.fromarray(i), 20, F.InterpolationMode.BILINEAR)),
                MEAN,
                STD,
            )
            for i in images
        ]
    )
    with torch.no_grad():
        image, text = network.encode_image(pixels), network.encode_text(tokens)
    norms = image.norm(dim=1)[:, None] * text.norm(dim=1)[None]
    return (image @ text.T / norms).numpy()


def test_score_is_100_times_the_cosine(tiny_scorer, tiny_scorer_folder, images) -> None:
    texts = ["garbage truck", "church", "a photo of bus", "church", "road"]
    scores = tiny_scorer.score(images, texts)
    expected = 100 * np.diagonal(reference_cosines(tiny_scorer_folder, images, texts))
    assert [s.value for s in scores] == pytest.approx(list(expected), abs=1e-4)
    assert [s.prompt for s in scores] == texts
    assert {s.scorer for s in scores} == {"tiny-clip"}


def test_classify_gives_a_fit_per_label(tiny_scorer, tiny_scorer_folder, images) -> None:
    labels = ["church", "bus", "banana"]
    fits = tiny_scorer.classify(images, labels)
    assert fits.shape == (5, 3)
    np.testing.assert_allclose(
        fits, reference_cosines(tiny_scorer_folder, images, labels), atol=1e-6
    )


def test_a_score_does_not_depend_on_what_was_asked_before(tiny_scorer_folder, images) -> None:
    """Not to the last bit, or an interrupted bench would differ from an uninterrupted one."""
    words = ["church", "bus", "a photo of road", "banana", "garbage truck", "red car", "castle"]
    asked_alone = open_clip_folder(str(tiny_scorer_folder))
    alone = [asked_alone.classify(images, words), asked_alone.score(images, words[:5])]
    asked_after = open_clip_folder(str(tiny_scorer_folder))
    asked_after.score(images, ["castle", "bus", "apple", "of", "a"])
    asked_after.text_features(words[2:4])
    after = [asked_after.classify(images, words), asked_after.score(images, words[:5])]
    np.testing.assert_array_equal(alone[0], after[0])
    assert alone[1] == after[1]


def test_other_images_are_not_taken_for_the_last_ones(tiny_scorer, images) -> None:
    first = tiny_scorer.classify(images, ["church"])
    other = tiny_scorer.classify(255 - images, ["church"])
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(tiny_scorer.classify(images, ["church"]), first)


def test_unlike_numbers_of_images_and_prompts_are_refused(tiny_scorer, images) -> None:
    with pytest.raises(ValueError, match="5 images and 2 prompts"):
        tiny_scorer.score(images, ["church", "bus"])


def test_identity_follows_weights_and_preprocessing(
    tiny_scorer, tiny_scorer_folder: Path, tmp_path: Path
) -> None:
    assert tiny_scorer.identity["name"] == "tiny-clip"
    assert tiny_scorer.identity["version"].startswith("open_clip ")
    other = open_clip_folder(str(build_scorer_folder(tmp_path / "other", seed=1)))
    assert other.identity["weights"] != tiny_scorer.identity["weights"]
    resized = tmp_path / "resized"
    shutil.copytree(tiny_scorer_folder, resized)
    config = json.loads((resized / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["interpolation"] = "bicubic"
    (resized / "open_clip_config.json").write_text(json.dumps(config))
    assert open_clip_folder(str(resized)).identity["weights"] != tiny_scorer.identity["weights"]


def test_load_scorer_reads_a_local_folder(registry, tiny_scorer, tiny_scorer_folder) -> None:
    loaded = load_scorer(f"local-dir:{tiny_scorer_folder}", registry)
    assert loaded.identity["weights"] == tiny_scorer.identity["weights"]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("icons-clap", UnknownNameError, "did you mean 'icons-clip'"),
        ("local-dir:/nowhere", ModelError, "open_clip_config.json"),
        ("ViT-Z-14/openai", ModelError, "Unknown open_clip model 'ViT-Z-14'"),
        ("ViT-B-32/nobody", ModelError, "no weights 'nobody'"),
        ("ViT-B-32/a/folder", ModelError, "no weights 'a/folder'"),
        ("ViT-B-32/./no/where.safetensors", ModelError, "no file 'no/where.safetensors'"),
        ("ViT-B-32//no/where.safetensors", ModelError, "no file '/no/where.safetensors'"),
        ("ViT-B-32/dir/some.pt", ModelError, "'dir/some.pt' are a pickle"),
        ("dir/some.safetensors", ModelError, "Unknown open_clip model 'dir'"),
        ("clip-vit-b-32", ModelError, "can't be fetched"),
        ("hf-hub:nobody/nothing", ModelError, "can't be fetched"),
    ],
)
def test_a_scorer_that_cannot_be_had_is_one_sentence(
    registry, name: str, kind: type[ErasekitError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(kind) as caught:
        load_scorer(name, registry)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "no weights"])
def test_a_damaged_folder_is_one_sentence(
    tiny_scorer_folder: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "scorer"
    shutil.copytree(tiny_scorer_folder, folder)
    weights = folder / "open_clip_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    with pytest.raises(ModelError, match="scorer"):
        OpenClipScorer(f"local-dir:{folder}")


@pytest.fixture
def small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small architecture, as open_clip registers its own."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    vision = {"image_size": 20, "layers": 1, "width": 32, "head_width": 16, "patch_size": 5}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "small-16.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "small-16.json")
    return "small-16"


def test_a_file_of_weights_is_named_after_its_model(
    registry, small_model: str, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    network, _, preprocess = open_clip.create_model_and_transforms(small_model)
    network.eval()
    file = tmp_path / "weights" / "own.safetensors"
    file.parent.mkdir()
    save_file(network.state_dict(), file)
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        tokens = open_clip.get_tokenizer(small_model)(["church", "bus"])
        expected = (
            network.encode_image(pixels, normalize=True)
            @ network.encode_text(tokens, normalize=True).T
        )
    monkeypatch.chdir(tmp_path)
    for path in ("weights/own.safetensors", "./weights/own.safetensors", str(file)):
        scorer = load_scorer(f"{small_model}/{path}", registry)
        assert scorer.name == "small-16/own.safetensors"
        np.testing.assert_allclose(scorer.classify(images, ["church", "bus"]), expected, atol=1e-6)
    other = tmp_path / "other.safetensors"
    save_file({"visual.proj": torch.zeros(2, 2)}, other)
    with pytest.raises(ModelError, match=r"not those of open_clip's 'small-16'"):
        load_scorer(f"{small_model}/other.safetensors", registry)
    other.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="is damaged"):
        load_scorer(f"{small_model}/other.safetensors", registry)

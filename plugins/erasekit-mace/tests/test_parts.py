"""Places of tokens, importance of timesteps, masks, and the loss on maps, each by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from erasekit.errors import ConceptError, ConfigError
from erasekit.testing import tiny_model
from erasekit_mace.attention import attended, sides, suppression
from erasekit_mace.masks import read_masks, read_pictures, thresholded
from erasekit_mace.timesteps import timestep_weights
from erasekit_mace.words import placed, read_templates

# -- words -----------------------------------------------------------------------------------------


def test_templates_are_separated_by_bars_and_name_the_concept_once() -> None:
    assert read_templates(" a photo  of {} | {} |") == ["a photo of {}", "{}"]
    for wrong in ("a photo", "{} and {}", ""):
        with pytest.raises(ConfigError, match=r"should have \{\} once"):
            read_templates(wrong)


@pytest.mark.parametrize("template", ["{}", "a photo of {}", "a red {} of a car", "{} car"])
@pytest.mark.parametrize("concept", ["garbage truck", "church", "zebra", ""])
def test_the_concept_is_where_the_tokenizer_has_it(template: str, concept: str) -> None:
    model = tiny_model()
    found = placed(model.family, template, concept)
    tokenizer = model.pipeline.tokenizer
    own = tokenizer(concept, add_special_tokens=False).input_ids
    assert tokenizer(found.text).input_ids[found.start : found.end] == own
    assert found.text == " ".join(template.replace("{}", concept).split())


def test_a_prompt_that_can_not_be_placed_is_one_sentence() -> None:
    family = tiny_model().family
    with pytest.raises(ConfigError, match=r"run together .* put a space around"):
        placed(family, "a {}truck", "garbage")
    with pytest.raises(ConceptError, match="tokens long"):
        placed(family, "a photo of {}", "a very long name of it")


# -- timesteps -------------------------------------------------------------------------------------


def test_the_importance_of_timesteps() -> None:
    weights = timestep_weights(1000, 0.2, 0.4, 0.05)
    t = np.arange(1000)
    expected = 1 / (1 + np.exp(-0.05 * (t - 200))) - 1 / (1 + np.exp(-0.05 * (t - 400)))
    np.testing.assert_allclose(weights.numpy(), expected / expected.sum(), rtol=1e-6, atol=1e-12)
    assert float(weights[200:400].sum()) > 0.85
    assert bool((weights >= 0).all())
    few = timestep_weights(100, 0.2, 0.4, 0.05)
    torch.testing.assert_close(few, weights.reshape(100, 10)[:, 0] * 10, rtol=0.02, atol=1e-6)


# -- maps ------------------------------------------------------------------------------------------


def test_the_loss_on_maps_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 3, n, 6, generator=generator) for n in (16, 4)]
    masks = (torch.rand(2, 1, 4, 4, generator=generator) > 0.4).float()
    found = suppression(maps, masks, slice(2, 4))
    for b in range(2):
        layers = []
        for attention in maps:
            side, total = int(attention.shape[2] ** 0.5), 0.0
            step = 4 // side
            for head in range(3):
                for y in range(side):
                    for x in range(side):
                        m = masks[b, 0, y * step : y * step + step, x * step : x * step + step]
                        for token in (2, 3):
                            a = attention[b, head, y * side + x, token]
                            total += float(a * m.mean()) ** 2
            layers.append(total / (3 * side * side))
        assert float(found[b]) == pytest.approx(sum(layers) / 2, rel=1e-5)


def test_attention_is_placed_where_it_is() -> None:
    attention = torch.zeros(1, 2, 16, 5)
    attention[:, :, 6, 3] = 1  # position 6 is row 1, column 2
    found = attended([attention], (4, 4), slice(3, 4))
    assert found.flatten().nonzero().flatten().tolist() == [6]
    assert found[0, 0, 1, 2] == 1


def test_sides_of_layers() -> None:
    assert sides((64, 64), 256) == (16, 16)
    assert sides((15, 9), 8 * 5) == (8, 5)
    with pytest.raises(ConfigError, match="60 positions, which is no halving of latents of 8 x 8"):
        sides((8, 8), 60)


# -- masks -----------------------------------------------------------------------------------------


def test_the_threshold_is_between_least_and_most() -> None:
    shares = torch.tensor([[0.1, 0.2], [0.3, 0.5]])[None, None]
    assert thresholded(shares, 0.4).flatten().tolist() == [0, 0, 1, 1]
    assert thresholded(shares, 1.0).flatten().tolist() == [0, 0, 0, 1]
    assert bool(thresholded(torch.full((2, 1, 2, 2), 0.3), 0.9).all())


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_pictures_and_masks_of_files(tmp_path: Path) -> None:
    grey = np.full((16, 16, 3), 128, dtype=np.uint8)
    half = np.zeros((16, 16), dtype=np.uint8)
    half[:, 8:] = 255
    write(tmp_path / "pictures" / "garbage-truck" / "b.png", grey)
    write(tmp_path / "pictures" / "garbage-truck" / "a.png", grey // 2)
    write(tmp_path / "masks" / "garbage-truck" / "a.png", half)
    write(tmp_path / "masks" / "garbage-truck" / "b.png", half.T)
    pictures = read_pictures(str(tmp_path / "pictures"), "Garbage truck", (16, 16))
    assert list(pictures) == ["a", "b"]
    assert (pictures["b"] == 128).all()
    masks = read_masks(str(tmp_path / "masks"), "garbage truck", list(pictures), (16, 16), (2, 2))
    assert masks.flatten(1).tolist() == [[0, 1, 0, 1], [0, 0, 1, 1]]


def test_what_is_missing_or_empty_is_one_sentence(tmp_path: Path) -> None:
    black = np.zeros((16, 16), dtype=np.uint8)
    with pytest.raises(ConfigError, match="no pictures of 'church'"):
        read_pictures(str(tmp_path), "church", (16, 16))
    write(tmp_path / "church" / "a.png", black)
    with pytest.raises(ConfigError, match="'b' of 'church' has no mask"):
        read_masks(str(tmp_path), "church", ["b"], (16, 16), (2, 2))
    with pytest.raises(ConfigError, match="'a' of 'church' is black all over"):
        read_masks(str(tmp_path), "church", ["a"], (16, 16), (2, 2))
    (tmp_path / "church" / "b.png").write_text("no picture")
    with pytest.raises(ConfigError, match="can't be read"):
        read_pictures(str(tmp_path), "church", (16, 16))

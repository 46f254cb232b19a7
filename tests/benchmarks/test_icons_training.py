"""The recipe of the shipped model: the parts that need no data and no long training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from benchmarks.icons import autoencoder, captions, data, generator, scorer, tokenizers, variation
from benchmarks.icons.card import model_card, quality
from benchmarks.icons.pack import known_concepts
from benchmarks.icons.training import (
    MovingAverage,
    cosine,
    load_checkpoint,
    plateau,
    save_atomic,
)

CONCEPTS = [
    {"name": "church", "kind": "object", "family": "buildings", "aliases": ["chapel", "plant"]},
    {"name": "factory", "kind": "object", "family": "buildings", "aliases": ["plant", "works"]},
    {"name": "garbage truck", "kind": "object", "family": "vehicles", "aliases": ["church"]},
]


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def square() -> torch.Tensor:
    """uint8 [1, 3, 64, 64]: a black frame around a white area."""
    pixels = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    pixels[:, :, 16:48, 16:48] = 0
    pixels[:, :, 20:44, 20:44] = 255
    return pixels


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    texts = captions.every_word(CONCEPTS, ["noto"])
    return tokenizers.build(texts, tmp_path_factory.mktemp("tokenizer"))


def test_colourise_turns_ink_into_the_colour_and_keeps_white() -> None:
    ink = torch.tensor([0.0, 1.0, 0.5]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    drawn = data.colourise(ink, torch.tensor([[1.0, 0.0, 0.5]]))
    assert drawn[0, :, 0, 0].tolist() == [1.0, 0.0, 0.5]
    assert drawn[0, :, 0, 1].tolist() == [1.0, 1.0, 1.0]
    assert drawn[0, :, 0, 2].tolist() == [1.0, 0.5, 0.75]


def test_shift_pixels_moves_whole_pixels_and_keeps_the_ink(
    square: torch.Tensor, rng: torch.Generator
) -> None:
    images = data.to_float(square.expand(8, -1, -1, -1))
    moved = data.shift_pixels(images, rng, most=3)
    assert torch.equal(moved.sum((1, 2, 3)), images.sum((1, 2, 3)))
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(moved, images)


def test_random_affine_fills_with_white_and_repeats_from_its_seed(square: torch.Tensor) -> None:
    images = data.to_float(square.expand(4, -1, -1, -1))
    first, again = (
        data.random_affine(images, torch.Generator().manual_seed(3), degrees=20) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert torch.equal(first[:, :, 0, 0], torch.ones(4, 3))
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_contact_sheet_puts_pictures_in_rows() -> None:
    sheet = data.contact_sheet(torch.zeros(3, 3, 4, 4), columns=2, gap=1)
    assert sheet.shape == (10, 10, 3)
    assert sheet[0, 0].tolist() == [0, 0, 0]
    assert sheet[5, 5].tolist() == [255, 255, 255]


def test_enclosed_numbers_the_inside_alone(square: torch.Tensor) -> None:
    areas = variation.enclosed(square)
    assert int(areas[0, 32, 32]) == 1
    assert int(areas[0, 2, 2]) == 0


def test_colour_in_fills_what_ink_encloses(square: torch.Tensor, rng: torch.Generator) -> None:
    pixels = square.expand(64, -1, -1, -1)
    drawn = variation.colour_in(data.to_float(pixels), variation.enclosed(pixels), rng, share=1.0)
    assert torch.equal(drawn[:, :, 2, 2], torch.ones(64, 3))
    filled = (drawn[:, :, 32, 32] < 1).any(1)
    assert 0.5 < float(filled.float().mean()) < 1.0


def test_variations_keep_shape_and_range(square: torch.Tensor, rng: torch.Generator) -> None:
    records = [{"mono": i % 2 == 0} for i in range(16)]
    varier = variation.Varier(data.Drawings(square.expand(16, -1, -1, -1), records))
    images = varier(torch.arange(16), rng)
    assert images.shape == (16, 3, 64, 64)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_ambiguous_aliases_are_left_out() -> None:
    assert [names.aliases for names in captions.unambiguous(CONCEPTS)] == [
        ("chapel",),
        ("works",),
        (),
    ]


def test_captions_have_the_intended_shares() -> None:
    names, random = captions.Names("church", ("chapel",)), Random(0)
    texts = [captions.caption(names, random, style="noto") for _ in range(4000)]
    assert 0.08 < texts.count("") / 4000 < 0.12
    assert 0.20 < sum("noto" in text for text in texts) / 4000 < 0.38
    named = Counter("chapel" in text for text in texts if "ch" in text)
    assert 0.18 < named[True] / sum(named.values()) < 0.32
    assert any(text in captions.NEUTRAL for text in texts)


def test_captions_name_colours_and_repeat_from_their_seed() -> None:
    names = captions.Names("church")
    texts = [captions.caption(names, Random(i), colour="red") for i in range(200)]
    assert texts == [captions.caption(names, Random(i), colour="red") for i in range(200)]
    assert 100 < sum("red church" in text for text in texts) < 190


def test_every_caption_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for text in ("a photo of garbage truck", "chapel in the style of noto", "purple factory"):
        assert len(tokenizer.tokenize(text)) == len(text.split())
    assert tokenizer.tokenize("A Garbage TRUCK") == tokenizer.tokenize("a garbage truck")


def test_other_words_fall_to_pieces(tokenizer: CLIPTokenizer) -> None:
    pieces = tokenizer.tokenize("xylograph")
    assert len(pieces) > 1
    assert "".join(pieces).replace("</w>", "") == "xylograph"
    assert len(tokenizer) < 2000


def test_prompts_begin_end_and_are_padded_like_clips(tokenizer: CLIPTokenizer) -> None:
    ids = generator.tokens(tokenizer, ["", "church"]).tolist()
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert ids[0] == [start] + [end] * 15
    assert ids[1][0] == start
    assert ids[1][2:] == [end] * 14
    assert end == len(tokenizer) - 1


def test_tokenizer_folder_has_both_formats(tmp_path: Path) -> None:
    tokenizers.build(["a church"], tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    merges = (tmp_path / "merges.txt").read_text().splitlines()[1:]
    assert all("".join(merge.split(" ")) in vocabulary for merge in merges)
    assert CLIPTokenizer.from_pretrained(tmp_path).model_max_length == tokenizers.LIMIT


def test_standardise_changes_the_latents_and_no_picture() -> None:
    torch.manual_seed(0)
    model = autoencoder.build_autoencoder().eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = autoencoder.encode(model, images)
    before = autoencoder.decode(model, latents)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    autoencoder.standardise(model, mean, std)
    after = autoencoder.encode(model, images)
    assert torch.allclose(after.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(autoencoder.decode(model, after), before, atol=1e-4)


def test_snr_weights_favour_noise() -> None:
    weights = generator.snr_weights(generator.build_scheduler())
    assert float(weights.mean()) == pytest.approx(1.0)
    assert weights.argmax() == 999
    assert weights.argmin() == 0
    assert float(weights[0]) < 0.01


def test_flat_parameters_are_the_modules_own() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    flat = generator.FlatParameters(module)
    module(torch.ones(1, 3)).sum().backward()
    assert torch.equal(flat.buffer[:6].view(2, 3), module[0].weight.grad)
    assert flat.exchange(1, message=True)
    assert not flat.exchange(1, message=False)
    with torch.no_grad():
        flat.values.zero_()
    assert module(torch.ones(1, 3)).item() == 0.0
    assert flat.clip(1e-3) > 1e-3
    assert float(flat.buffer[:-1].norm()) == pytest.approx(1e-3, rel=1e-4)


def test_schedules() -> None:
    assert cosine(0, 100, 10) == pytest.approx(0.1)
    assert cosine(10, 100, 10) == pytest.approx(1.0)
    assert cosine(100, 100, 10) == pytest.approx(0.02)
    assert plateau(50, 100, 10, 20) == plateau(50, 1000, 10, 20) == 1.0
    assert plateau(90, 100, 10, 20) == pytest.approx(0.02 + 0.98 / 2)


def test_moving_average_follows_and_survives_a_checkpoint(tmp_path: Path) -> None:
    module = nn.Linear(1, 1, bias=False)
    average = MovingAverage(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(2.0)
    for _ in range(40):
        average.update(module)
    assert float(average.average["weight"]) == pytest.approx(2.0, abs=1e-3)
    save_atomic(average.state_dict(), tmp_path / "a.pt")
    other = MovingAverage(nn.Linear(1, 1, bias=False), 0.5)
    other.load_state_dict(load_checkpoint(tmp_path / "a.pt") or {})
    assert other.steps == 40
    assert load_checkpoint(tmp_path / "b.pt") is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_ranks_and_accuracy() -> None:
    class Identity(nn.Module):
        def encode_image(self, images: torch.Tensor, normalize: bool) -> torch.Tensor:
            return images[:, 0, 0, :3]

    images = torch.zeros(2, 3, 64, 64)
    images[0, 0, 0, 0] = 1.0
    images[1, 0, 0, 2] = 1.0
    places = scorer.ranks(Identity(), images, torch.tensor([0, 1]), torch.eye(3))
    assert places[0] == 0
    assert places[1] >= 1
    assert scorer.accuracy(torch.tensor([0, 1, 7, 0]))["top1"] == 50.0
    assert scorer.accuracy(torch.tensor([0, 1, 7, 0]))["top5"] == 75.0


def test_what_the_scorer_trained_on_is_not_unseen() -> None:
    records = [
        {"role": "scorer", "sha256": "x", "concept": "church", "mono": False},
        {"role": "generator", "sha256": "x", "concept": "church", "mono": False},
        {"role": "generator", "sha256": "y", "concept": "factory", "mono": False},
    ]
    drawings = data.Drawings(torch.zeros(3, 3, 64, 64, dtype=torch.uint8), records)
    groups = scorer.unseen(drawings, ["church", "factory"])
    assert groups["generator"][1].tolist() == [1]


def test_open_clip_loads_the_scorers_configuration(tmp_path: Path) -> None:
    texts = captions.every_word(CONCEPTS, [])
    built = tokenizers.build(texts, tmp_path, pad=scorer.PAD + "</w>")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(scorer.config(len(built))))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    tokens = tokenizer(["a photo of a church", "factory"])
    assert tokens.shape == (2, tokenizers.LIMIT)
    assert tokens.argmax(1).tolist() == [6, 2]
    model = scorer.new_model(tmp_path).eval()
    assert sum(p.numel() for p in model.parameters()) < 3e6
    with torch.no_grad():
        assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
        assert model.encode_text(tokens).shape == (2, 128)


def test_unet_has_stable_diffusions_anatomy(tokenizer: CLIPTokenizer) -> None:
    pair = generator.Pair(tokenizer)
    names = [name for name, _ in pair.unet.named_parameters()]
    assert any("attn2.to_k" in name for name in names)
    assert sum(p.numel() for p in pair.parameters()) < 8e6
    with torch.no_grad():
        noise = pair(torch.zeros(1, 4, 16, 16), torch.tensor([10]), torch.zeros(1, 16).long())
    assert noise.shape == (1, 4, 16, 16)


MANIFEST = {
    "concepts": [
        {"name": "church", "kind": "object", "family": "b", "split": "pool", "aliases": [],
         "note": "Any church."},
    ],
    "sets": {
        "noto": {"title": "Noto", "author": "Google", "url": "https://x", "licence": "Apache-2.0",
                 "role": "generator", "style": "noto"},
        "ph": {"title": "Phosphor", "author": "P", "url": "https://y", "licence": "MIT",
               "role": "scorer", "style": ""},
    },
    "drawings": [
        ["church", "noto", "church", "generator", "0"],
        ["church", "ph", "church", "scorer", "1"],
    ],
}  # fmt: skip


def test_card_says_what_it_was_made_from() -> None:
    known = known_concepts(MANIFEST)
    assert known[0]["styles"] == ["noto"]
    assert known[0]["drawings"] == 1
    content = {
        "steps": 25,
        "guidance_scale": 3.0,
        "metrics": {},
        "concepts": known,
        "trained_steps": {"autoencoder": 1, "generator": 2, "scorer": 3},
    }
    card = model_card(content, MANIFEST, 20.0)
    assert "Not measured yet." in card
    assert "| [Phosphor](https://y) | MIT | P | scorer |" in card
    assert "- church: Any church." in card


def test_quality_names_the_weak_concepts() -> None:
    figures = {"top1": 61.0, "top5": 80.0, "drawings": 9}
    text = quality(
        {
            "scorer": {"scorer-eval": figures, "generator": figures},
            "generator": {
                **figures,
                "images": 8,
                "images_per_concept": 4,
                "steps": 25,
                "guidance_scale": 3.0,
                "per_concept": {"church": {"top1": 0.25}, "car": {"top1": 1.0}},
            },
        }
    )
    assert "61.0 %" in text
    assert "church (25 %)" in text
    assert "car (" not in text


def test_soften_and_cut_out_leave_the_input_alone(rng: torch.Generator) -> None:
    images = torch.full((32, 3, 64, 64), 0.5)
    copy = images.clone()
    softened = variation.soften(images, rng)
    cut = variation.cut_out(images, rng, share=1.0)
    assert torch.equal(images, copy)
    assert softened.shape == cut.shape == images.shape
    changed = (cut != images).flatten(1).any(1)
    assert float(changed.float().mean()) > 0.9
    assert np.isfinite(softened.numpy()).all()

"""The recipe of the model "world": its trainings, tiny, and what goes from one to the next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.world import (
    autoencoder,
    evaluate,
    generator,
    gpu,
    pack,
    scorer,
    tokenizers,
    variation,
)
from benchmarks.world.captions import known
from benchmarks.world.scenes import is_unseen
from benchmarks.world.sprites import Sprites, load_sprites, save_sprites
from benchmarks.world.training import (
    Budget,
    Device,
    MovingAverage,
    Team,
    cosine,
    load_checkpoint,
    plateau,
    save_atomic,
)
from benchmarks.world.weights import restore, save_weights

CPU = Device("cpu")


def discs(role: str, size: int, *sets: str) -> Sprites:
    """Four concepts, drawn in each set as discs of one colour a concept."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((y - size / 2) ** 2 + (x - size / 2) ** 2 < size**2 / 5).to(torch.uint8)
    pixels, records = [], []
    for i, name in enumerate(("church", "car", "cat", "apple")):
        for drawn_by in sets:
            shade = [disc * 60 * i, disc * 90, disc * (250 - 60 * i), disc * 255]
            pixels.append(torch.stack(shade))
            records.append({"concept": name, "set": drawn_by, "icon": name, "role": role})
    mono = [r | {"mono": r["set"] == "mdi"} for r in records]
    return Sprites(torch.stack(pixels), mono)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder in which everything was trained for two steps, by way of one weights file."""
    build = tmp_path_factory.mktemp("build")
    save_sprites(discs("generator", 32, "noto", "twemoji"), build / "sprites.npz")
    gpu.run(build / "sprites.npz", build / "out.safetensors", 1.0, 0, CPU, tiny=True)
    restore(build / "out.safetensors", build)
    judged = discs("scorer", 32, "emojione", "mdi")
    scorer.train(Budget(steps=2), 0, CPU, build / "checkpoints" / "scorer.pt", judged, batch=4)
    generator.prepare_tokenizer(build / "tokenizer")
    return build


def test_the_weights_file_carries_everything_but_moments(build: Path) -> None:
    with safe_open(build / "out.safetensors", "pt") as file:
        assert file.metadata()["generator.step"] == "2"
        assert file.metadata()["generator.samples"] == "8"
        parts = {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118
        assert parts == {"autoencoder", "generator"}
        assert file.get_tensor("generator.unet.conv_in.weight").dtype == torch.float16
    with pytest.raises(FileExistsError, match="move them away"):
        restore(build / "out.safetensors", build)
    with pytest.raises(FileNotFoundError, match="no weights to restore"):
        restore(build / "none.safetensors", build)
    save_weights(build / "again.safetensors", build)
    assert (build / "again.safetensors").stat().st_size > (
        build / "out.safetensors"
    ).stat().st_size  # the scorer is in it now


def test_a_restored_training_goes_on(build: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkpoints"
    restore(build / "out.safetensors", tmp_path)
    sprites = load_sprites(build / "sprites.npz")
    options = {"device": CPU, "sprites": sprites, "batch": 2, "pool": 64}
    autoencoder.train(Budget(steps=9), checkpoint=place / "autoencoder.pt", **options)
    assert (load_checkpoint(place / "autoencoder.pt") or {})[
        "step"
    ] == 2  # a generator has learnt its latents
    before = load_checkpoint(place / "generator.pt") or {}
    generator.train(Budget(steps=4), checkpoint=place / "generator.pt", **options)
    after = load_checkpoint(place / "generator.pt") or {}
    assert (before["step"], after["step"], after["samples"]) == (2, 4, 12)
    assert after["chunks"] > before["chunks"]
    assert "optimiser" in after
    key = "unet.conv_in.weight"
    assert not torch.equal(after["model"][key], before["model"][key])
    with pytest.raises(ValueError, match="whole chunks"):
        generator.train(
            Budget(steps=5), checkpoint=place / "generator.pt", **options | {"pool": 70}
        )


def test_what_is_packed_loads_and_says_what_it_is(build: Path) -> None:
    target = pack.pack(build / "packed", build)
    content = json.loads((target / "world.json").read_text())
    assert content["trained"]["generator"]["step"] == 2
    assert content["size"] == 128
    church = next(c for c in content["concepts"] if c["name"] == "church")
    assert church["parents"] == ["building"]
    assert church["styles"] == ["noto", "twemoji"]
    text = (target / "MODEL_CARD.md").read_text()
    assert "Not measured yet." in text
    assert "No icon set draws a springer spaniel: any dog." in text
    pipeline = StableDiffusionPipeline.from_pretrained(target / "world", local_files_only=True)
    assert pipeline.vae_scale_factor == 8
    assert pipeline.tokenizer("a garbage truck next to a church").input_ids[-1] == (
        pipeline.tokenizer.eos_token_id
    )


def test_the_card_says_how_far_it_is_from_its_goals(build: Path) -> None:
    metrics = {
        "single": {"top1": 86.0, "worst": 12.0, "per_concept": {"church": 0.25, "car": 1.0}},
        "unseen_pairs": {"both": 61.0},
        "seen_pairs": {"both": 70.0},
        "scorer-eval": {"top1": 76.0},
        "seconds_for_16": 3.0,
        "icons_seconds_for_16": 1.0,
    }
    lines = evaluate.verdicts(metrics)
    assert "unseen pairs, both named: 61.0 % of 60 %, reached" in lines
    assert "worst concept: 12.0 % of 30 %, missed by 18.0" in lines
    assert lines[-1].endswith("3.00 times icons' time of 1.50, missed")
    content = pack.content_of(build, build, metrics)
    text = pack.card(content, 20.0)
    assert "fewer than half named right: church\n" in text


def test_a_tokenizer_older_than_the_catalogue_is_refused(tmp_path: Path) -> None:
    tokenizers.build(["a church"], tmp_path)
    with pytest.raises(ValueError, match="learnt before the catalogue had"):
        generator.prepare_tokenizer(tmp_path)


def test_pairs_to_measure_are_shown_or_never_shown() -> None:
    from random import Random

    names = [n.name for n in known()]
    for never_shown in (False, True):
        for first, second in evaluate.pairs(20, never_shown, Random(0)):
            assert is_unseen(names[first], names[second]) == never_shown


def test_standardise_changes_the_latents_and_no_picture() -> None:
    torch.manual_seed(0)
    model = autoencoder.build_autoencoder((8, 8, 8, 8)).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = autoencoder.encode(model, images)
    assert latents.shape == (2, 4, 8, 8)
    before = autoencoder.decode(model, latents)
    autoencoder.standardise(model, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
    after = autoencoder.encode(model, images)
    assert torch.allclose(after.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(autoencoder.decode(model, after), before, atol=1e-4)


def test_the_autoencoder_starts_as_a_copier_of_colours() -> None:
    torch.manual_seed(0)
    model = autoencoder.build_autoencoder().eval()
    plain = torch.rand(6, 3, 4, 4) * 1.6 - 0.8
    images = nn.functional.interpolate(plain, scale_factor=16)  # blocks of one colour
    with torch.no_grad():
        latents = autoencoder.encode(model, images)
        copies = model.decode(latents).sample
    means = nn.functional.avg_pool2d(images, 8)
    for i in range(3):
        together = torch.stack([latents[:, i].flatten(), means[:, i].flatten()])
        assert float(together.corrcoef()[0, 1]) > 0.99
    inner = nn.functional.avg_pool2d(copies, 16)[:, :, 1:-1, 1:-1]
    assert float((inner - plain[:, :, 1:-1, 1:-1]).abs().mean()) < 0.25
    assert float(nn.functional.mse_loss(copies, images)) < 0.5 * float(images.var())


def test_the_training_pass_copies_as_the_autoencoder_does() -> None:
    model = autoencoder.build_autoencoder((8, 8, 8, 8)).eval()
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        model.quant_conv.weight[4:], model.quant_conv.bias[4:] = 0, -30  # no noise
        drawn, kl = autoencoder.Copier(model)(images)
        posterior = model.encode(images).latent_dist
        assert torch.allclose(drawn, model.decode(posterior.mean).sample, atol=1e-4)
        assert float(kl) == pytest.approx(float(posterior.kl() / (4 * 4 * 4)), rel=1e-4)


def test_crops_exchange_the_colours_of_a_quarter() -> None:
    pool = autoencoder.Pool(discs("generator", 32, "noto"), 0, CPU, 8)
    pool.pictures[:] = torch.tensor([0, 100, 255], dtype=torch.uint8)[:, None, None]
    crops = pool(16, 48)
    assert crops.shape == (16, 3, 48, 48)
    plain = torch.tensor([-1.0, 100 / 127.5 - 1, 1.0])
    assert all(torch.allclose(crop[:, 0, 0], plain) for crop in crops[4:])
    assert all(torch.allclose(crop[:, 0, 0].sort()[0], plain) for crop in crops[:4])


def test_snr_weights_favour_noise() -> None:
    weights = generator.snr_weights(generator.build_scheduler())
    assert float(weights.mean()) == pytest.approx(1.0)
    assert weights.argmax() == 999
    assert weights.argmin() == 0
    assert float(weights[0]) < 0.01


def test_a_pass_costs_little_more_than_the_present_models() -> None:
    folder = pack.EMBEDDED / "icons" / "unet"
    costs = []
    for unet, tokens in ((generator.build_unet(), 32), (None, 16)):
        with torch.device("meta"):
            if unet is None:
                unet = type(generator.build_unet()).from_config(
                    type(generator.build_unet()).load_config(folder)
                )
            unet = unet.to("meta")
            with FlopCounterMode(display=False) as flops, torch.no_grad():
                unet(torch.zeros(1, 4, 16, 16), torch.zeros(1), torch.zeros(1, tokens, 128))
        costs.append(flops.get_total_flops())
    assert costs[0] / costs[1] <= 1.3
    names = [name for name, _ in generator.build_unet().named_parameters()]
    assert any("attn2.to_k" in name for name in names)


def test_budgets_and_schedules() -> None:
    assert Budget(steps=10).progress(5) == 0.5
    assert Budget(minutes=1, spent=30).progress(10**6) == pytest.approx(0.5, abs=0.01)
    assert Budget(minutes=1, spent=90).progress(0) == 1.0
    with pytest.raises(ValueError, match="either steps or minutes"):
        Budget()
    assert cosine(0, 0.0, 10) == pytest.approx(0.1)
    assert cosine(100, 1.0, 10) == pytest.approx(0.02)
    assert plateau(50, 0.5, 10) == 1.0
    assert plateau(50, 0.875, 10) == pytest.approx(0.03 + 0.97 / 2)


MEMBER = """
import sys, torch
from benchmarks.world.training import Team
rank = int(sys.argv[1])
team, module = Team(rank, 2, sys.argv[2]), torch.nn.Linear(2, 1)
module.weight.grad = torch.tensor([[1.0, 4.0 * rank]])
module.bias.grad = torch.tensor([-1.0 * rank])
team.average(module)
print(module.weight.grad.tolist(), module.bias.grad.tolist(), team.agree(0.25 * rank, 1.0 - rank))
team.leave()
"""


def test_two_processes_average_their_gradients_and_stop_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMBER]
    members = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    said = [member.communicate(timeout=120)[0] for member in members]
    assert said == ["[[1.0, 2.0]] [-0.5] [0.25, 1.0]\n"] * 2
    alone = Team()
    assert alone.agree(0.5, 0.0) == [0.5, 0.0]
    with pytest.raises(ValueError, match="one process"):
        generator.train(
            Budget(steps=1),
            device=Device("cuda"),
            sprites=discs("generator", 8, "noto"),
            processes=2,
        )


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
    assert torch.equal(other.average["weight"], average.average["weight"])
    assert load_checkpoint(tmp_path / "b.pt") is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_single_names_and_pairs_are_counted() -> None:
    found = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.8, 0.6]])
    assert scorer.ranks(found, torch.tensor([[0, 2], [0, 2]])).tolist() == [[0, 1], [2, 1]]
    pairs = scorer.accuracy(found, torch.tensor([[0, 2], [0, 2]]))
    assert (pairs["both"], pairs["either"]) == (50.0, 100.0)
    single = scorer.accuracy(found, torch.tensor([[0], [2]]))
    assert (single["top1"], single["top5"]) == (50.0, 100.0)


def test_the_scorers_batches_show_one_thing_or_two() -> None:
    judged = scorer.Judged(discs("scorer", 32, "emojione", "mdi"), CPU)
    images, target = judged.batch(64, "key")
    again, _ = judged.batch(64, "key")
    assert torch.equal(images, again)
    assert images.shape == (64, 3, scorer.SIZE, scorer.SIZE)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert torch.allclose(target.sum(1), torch.ones(64))
    shared = (target == 0.5).any(1)
    assert 0.1 < float(shared.float().mean()) < 0.5
    assert set(target.unique().tolist()) == {0.0, 0.5, 1.0}


def test_open_clip_loads_the_scorers_configuration(tmp_path: Path) -> None:
    scorer.prepare_folder(tmp_path)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    tokens = tokenizer(["a photo of a church", "factory"])
    assert tokens.argmax(1).tolist() == [6, 2]
    model = scorer.new_model(tmp_path).eval()
    assert sum(p.numel() for p in model.parameters()) < 3e6
    with torch.no_grad():
        assert scorer.scores(
            model, torch.zeros(1, 3, 128, 128), scorer.text_matrix(model, tokenizer, ["church"])
        ).shape == (1, 1)


def test_enclosed_areas_are_numbered_and_filled() -> None:
    frame = torch.zeros(64, 48, 48, dtype=torch.uint8)
    frame[:, 8:40, 8:40] = 255
    frame[:, 12:36, 12:36] = 0
    areas = variation.enclosed(frame)
    assert int(areas[0, 24, 24]) == 1
    assert int(areas[0, 2, 2]) == 0
    rng = torch.Generator().manual_seed(0)
    drawn = variation.colour_in(frame.float() / 255, areas, rng, share=1.0)
    assert drawn[:, 3, 2, 2].tolist() == [0.0] * 64
    assert drawn[:, 3, 10, 24].tolist() == [1.0] * 64
    assert 0.6 < float(drawn[:, 3, 24, 24].mean()) < 0.95


def test_variations_keep_range_and_leave_the_input_alone() -> None:
    images = torch.rand(32, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    copy, rng = images.clone(), torch.Generator().manual_seed(0)
    changed = {}
    for vary in (variation.jitter_colours, variation.soften, variation.cut_out):
        varied = vary(images, rng)
        assert torch.equal(images, copy)
        assert varied.shape == images.shape
        assert 0 <= float(varied.min()) <= float(varied.max()) <= 1
        changed[vary.__name__] = float((varied != images).flatten(1).any(1).float().mean())
    assert changed["jitter_colours"] > 0.9
    assert 0.4 < changed["soften"] < 0.9
    assert 0.1 < changed["cut_out"] < 0.6

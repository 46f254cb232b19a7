"""Train the generator: text encoder and UNet together, on the autoencoder's latents.

`python -m benchmarks.world generator`. Scenes are planned and captioned in order from the seed (by
worker processes on a GPU's machine), composed and encoded where the training runs, and kept in a
pool from which each is drawn several times, with another of its captions.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.world.autoencoder import encode, load_autoencoder
from benchmarks.world.captions import describe, every_word, known
from benchmarks.world.catalog import read_sets
from benchmarks.world.scenes import Planner, Plans, compose, pack
from benchmarks.world.sprites import BUILD, Sprites, load_sprites
from benchmarks.world.tokenizers import LIMIT, WORDS, build
from benchmarks.world.training import (
    EVERY_SECONDS,
    Budget,
    Device,
    Log,
    MovingAverage,
    Stopper,
    Team,
    load_checkpoint,
    plateau,
    save_atomic,
)

CHANNELS, WIDTH = (56, 112, 160), 128
RATE, WARMUP, AVERAGE = 1.5e-3, 300, 0.999
GAMMA = 5.0
"""Largest signal-to-noise ratio that counts in full."""
CHUNK, CAPTIONS, REUSE = 64, 3, 8
"""Scenes planned at a time, captions of each, and how often each is drawn, on average."""
CHECKPOINT = BUILD / "checkpoints" / "generator.pt"
TOKENIZER = BUILD / "tokenizer"


def build_unet() -> UNet2DConditionModel:
    """The UNet, freshly initialised: 7.8 M parameters, cross-attention at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder, freshly initialised."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LIMIT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1's own noise schedule and sampler."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Pair(nn.Module):
    """Text encoder and UNet: what is trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Freshly initialised."""
        super().__init__()
        self.text_encoder = build_text_encoder(tokenizer)
        self.unet = build_unet()

    def forward(
        self, noisy: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Predicted noise. noisy: [N, 4, 16, 16]; steps: [N]; tokens: [N, LIMIT]."""
        text = self.text_encoder(tokens).last_hidden_state
        predicted: torch.Tensor = self.unet(noisy, steps, text).sample
        return predicted


def snr_weights(scheduler: DDIMScheduler, gamma: float = GAMMA) -> torch.Tensor:
    """Weight of the noise error at each of the 1000 timesteps; their mean is 1.

    min(SNR, gamma) / SNR, as usual, times sqrt(1 + 1 / SNR): what a picture is all about is decided
    where there is hardly any signal, and there a large error of the picture is a small one of the
    noise. Without that factor colours and outlines follow the starting noise, not the prompt.
    """
    ratio = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weights = ratio.clamp(max=gamma) / ratio * (1 + 1 / ratio).sqrt()
    return weights / weights.mean()


class Reader:
    """Turns captions into tokens by looking words up: CLIPTokenizer's own result, much faster."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Index the tokens that are whole words."""
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        ends = ((token, i) for token, i in tokenizer.get_vocab().items() if token.endswith("</w>"))
        self.words = {token.removesuffix("</w>"): i for token, i in ends}
        # ASCII stands in for the pattern's Unicode classes: captions have nothing else.
        self.pattern = re.compile(WORDS.replace(r"\p{L}", "a-z").replace(r"\p{N}", "0-9"))

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """int64 [N, LIMIT], as StableDiffusionPipeline makes them."""
        rows = torch.full((len(texts), LIMIT), self.end)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.words[word] for word in self.pattern.findall(text.lower())][: LIMIT - 2]
            row[: len(ids) + 1] = torch.tensor([self.start, *ids])
        return rows


class Planned(IterableDataset[tuple[torch.Tensor, ...]]):
    """Chunks of planned and captioned scenes, in the order of their numbers.

    Chunk n is made from (seed, n) alone; of `processes`, each makes every so many, and of each
    one's W workers worker w makes every W of those.
    """

    def __init__(
        self,
        sprites: Sprites,
        tokenizer: CLIPTokenizer,
        seed: int,
        first: int,
        processes: int = 1,
    ) -> None:
        """Start with chunk number `first`."""
        names = {n.name: n for n in known()}
        styles = {name: entry.style for name, entry in read_sets().items()}
        self.planner, self.reader = Planner(sprites), Reader(tokenizer)
        self.names = [names[record["concept"]] for record in sprites.records]
        self.styles = [styles[record["set"]] for record in sprites.records]
        self.seed, self.first, self.processes = seed, first, processes

    def chunk(self, number: int) -> tuple[torch.Tensor, ...]:
        """The parts of CHUNK scenes' Plans, and tokens [CHUNK, CAPTIONS, LIMIT]."""
        random = Random(f"{self.seed}/{number}")
        scenes = [self.planner(random) for _ in range(CHUNK)]
        texts = []
        for scene in scenes:
            sprites = [thing.sprite for thing in scene.things]
            called = [self.names[i] for i in sprites]
            worn = {self.styles[i] for i in sprites}
            style = worn.pop() if len(worn) == 1 else ""
            texts += [describe(scene, called, style, random) for _ in range(CAPTIONS)]
        plans, tokens = pack(scenes), self.reader(texts).view(CHUNK, CAPTIONS, LIMIT)
        return plans.sprites, plans.maps, plans.colours, plans.tints, tokens

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """For ever."""
        worker = torch.utils.data.get_worker_info()
        number = self.first + (worker.id if worker else 0) * self.processes
        while True:
            yield self.chunk(number)
            number += (worker.num_workers if worker else 1) * self.processes


class Pool:
    """The latest scenes' latents and tokens, on the training's device."""

    def __init__(
        self, sprites: Sprites, coder: AutoencoderKL, planned: Planned, size: int, device: Device
    ) -> None:
        """Fill it."""
        if size % CHUNK:
            raise ValueError(f"a pool holds whole chunks of {CHUNK} scenes, not {size}")
        workers = max(1, (os.cpu_count() or 2) - 2) if device.fast else 0
        self.chunks = iter(DataLoader(planned, batch_size=None, num_workers=workers))
        self.pixels = sprites.pixels.to(device.name)
        self.coder, self.device, self.taken = coder.to(device.name), device, 0
        self.latents = torch.zeros(size, 4, 16, 16, device=device.name)
        self.tokens = torch.zeros(size, CAPTIONS, LIMIT, dtype=torch.long, device=device.name)
        self.together = min(8, size // CHUNK) if device.fast else 1
        for _ in range(size // CHUNK // self.together):
            self.take()

    def take(self) -> None:
        """Put the next chunks in the place of the oldest: one, or as many as fill a GPU."""
        chunks = [next(self.chunks) for _ in range(self.together)]
        *plans, tokens = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        with self.device.autocast():
            latents = encode(self.coder, compose(self.pixels, Plans(*plans)), CHUNK * self.together)
        start = self.taken * CHUNK
        places = torch.arange(start, start + len(latents)) % len(self.latents)
        self.latents[places.to(self.device.name)] = latents.float()
        self.tokens[places.to(self.device.name)] = tokens.to(self.device.name)
        self.taken += self.together

    def batch(
        self, size: int, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents, noise, timesteps (spread evenly) and tokens, drawn with `rng` (the device's)."""
        place = self.device.name
        pick = torch.randint(len(self.latents), (size,), generator=rng, device=place)
        which = torch.randint(CAPTIONS, (size,), generator=rng, device=place)
        noise = torch.randn(size, 4, 16, 16, generator=rng, device=place)
        offset = torch.rand((), generator=rng, device=place)
        spread = (torch.arange(size, device=place) + offset) / size
        moments = (spread * 1000).long().clamp(max=999)
        return self.latents[pick], noise, moments, self.tokens[pick, which]


def prepare_tokenizer(folder: Path = TOKENIZER) -> CLIPTokenizer:
    """The generator's tokenizer, learnt once; ValueError if the catalogue has words beyond it."""
    if not (folder / "tokenizer_config.json").exists():
        build(every_word(), folder)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    reader = Reader(tokenizer)
    words = {word for text in every_word() for word in reader.pattern.findall(text.lower())}
    if new := sorted(words - reader.words.keys()):
        raise ValueError(
            f"{folder} was learnt before the catalogue had {', '.join(new[:5])}: "
            "remove it, and what was trained with it"
        )
    return tokenizer


def pipeline_of(
    coder: AutoencoderKL, pair: Pair, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """A plain diffusers pipeline."""
    pair.requires_grad_(False).eval()
    pipeline = StableDiffusionPipeline(
        vae=coder,
        text_encoder=pair.text_encoder,
        tokenizer=tokenizer,
        unet=pair.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_pipeline(path: Path = CHECKPOINT) -> StableDiffusionPipeline:
    """A checkpoint's averaged weights as a pipeline."""
    content = load_checkpoint(path)
    if content is None:
        raise FileNotFoundError(f"{path}: train the generator, or restore weights, first")
    tokenizer = prepare_tokenizer(path.parent.parent / "tokenizer")
    pair = Pair(tokenizer)
    pair.load_state_dict(content["average"]["average"])
    return pipeline_of(load_autoencoder(path.with_name("autoencoder.pt")), pair, tokenizer)


def train(
    budget: Budget,
    seed: int = 0,
    device: Device | None = None,
    checkpoint: Path = CHECKPOINT,
    sprites: Sprites | None = None,
    batch: int | None = None,
    pool: int | None = None,
    processes: int = 1,
) -> None:
    """Train, or go on where a checkpoint left off. SIGTERM stops between two steps.

    A checkpoint may come from the other kind of device. One that weights.restore wrote has no
    moments, so the optimiser starts afresh, with a warm-up. batch and pool are each process's.
    """
    device, sprites = device or Device.of(), sprites or load_sprites()
    if device.fast and processes > 1:
        raise ValueError("a GPU is trained on by one process")
    prepare_tokenizer(checkpoint.parent.parent / "tokenizer")
    rest = (budget, seed, device, checkpoint, sprites, batch, pool)
    with tempfile.TemporaryDirectory() as scratch:
        meeting = f"{scratch}/meeting"
        context = torch.multiprocessing.get_context("spawn")
        others = [
            context.Process(target=run, args=(rank, processes, meeting, *rest), daemon=True)
            for rank in range(1, processes)
        ]
        for other in others:
            other.start()
        run(0, processes, meeting, *rest)
        for other in others:
            other.join()


def run(
    rank: int,
    processes: int,
    meeting: str,
    budget: Budget,
    seed: int,
    device: Device,
    checkpoint: Path,
    sprites: Sprites,
    batch: int | None,
    pool: int | None,
) -> None:
    """One process's part of a training."""
    if processes > 1:
        torch.set_num_threads(1)
    team = Team(rank, processes, meeting)
    batch = batch or (1024 if device.fast else 32)
    size = pool or (262_144 if device.fast else 2048)
    rate = RATE * (1.3 if device.fast else 1.0)
    torch.manual_seed(seed)
    tokenizer = prepare_tokenizer(checkpoint.parent.parent / "tokenizer")
    pair = Pair(tokenizer).train().to(device.name)
    scheduler = build_scheduler()
    weights = snr_weights(scheduler).to(device.name)
    noise_level = scheduler.alphas_cumprod.to(device.name)
    optimiser = torch.optim.AdamW(
        pair.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    average = MovingAverage(pair, AVERAGE)
    step = samples = chunks = warm_from = 0
    if (state := load_checkpoint(checkpoint)) is not None:
        pair.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        step, samples, chunks = state["step"], state["samples"], state["chunks"]
        budget.spent = state["seconds"]
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        else:
            warm_from = step
    planned = Planned(sprites, tokenizer, seed, chunks + rank, processes)
    coder = load_autoencoder(checkpoint.with_name("autoencoder.pt"))
    scenes = Pool(sprites, coder, planned, size, device)
    forward = device.compiled(pair)
    log, stopper = Log(checkpoint.parent.parent / "logs" / "generator.jsonl"), Stopper()
    rng = torch.Generator(device.name).manual_seed((seed * 64 + rank) * 1_000_003 + step)

    def save() -> None:
        content = {"model": pair.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
        content |= {"average": average.state_dict(), "samples": samples, "seed": seed}
        content |= {"chunks": chunks + scenes.taken * processes, "seconds": budget.seconds}
        save_atomic(content, checkpoint)

    first, total = step, torch.zeros((), device=device.name)
    saved, mark = budget.seconds, (samples, budget.seconds)
    while True:
        progress, stop = team.agree(budget.progress(step), float(stopper.asked))
        if progress >= 1 or stop:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * plateau(step - warm_from, progress, WARMUP)
        latents, noise, moments, ids = scenes.batch(batch, rng)
        level = noise_level[moments][:, None, None, None]
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        with device.autocast():
            predicted = forward(noisy, moments, ids)
        error = F.mse_loss(predicted.float(), noise, reduction="none").mean((1, 2, 3))
        optimiser.zero_grad()
        (error * weights[moments]).mean().backward()
        team.average(pair)
        if torch.isfinite(nn.utils.clip_grad_norm_(pair.parameters(), 1.0)):
            optimiser.step()
        average.update(pair)
        total += error.detach().mean()
        step += 1
        samples += batch * processes
        while (scenes.taken * CHUNK - size) * REUSE < (step - first) * batch:
            scenes.take()
        if step % 50 == 0 and rank == 0:
            speed = (samples - mark[0]) / (budget.seconds - mark[1])
            log(step=step, samples=samples, loss=float(total) / 50, samples_per_second=speed)
            total.zero_()
            mark = samples, budget.seconds
        if budget.seconds - saved > EVERY_SECONDS and rank == 0:
            save()
            saved = budget.seconds
    if rank == 0:
        save()
    team.leave()

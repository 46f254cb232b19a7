"""Train the generator: text encoder and UNet together, on the autoencoder's latents.

`python -m benchmarks.world generator`. Two processes of one thread each average their gradients
(on small convolutions that is nearly twice as fast as one process with two threads). Every step
draws its batch from a seed made of the run's seed, the step and the process, so a run that was
stopped goes on exactly as if it had not been.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.world.autoencoder import CHECKPOINT as AUTOENCODER
from benchmarks.world.autoencoder import encode, load_autoencoder
from benchmarks.world.captions import Names, caption, every_word, unambiguous
from benchmarks.world.data import (
    BUILD,
    COLOUR_WORDS,
    Drawings,
    colour_table,
    colourise,
    load_drawings,
    load_manifest,
    shift_pixels,
    to_float,
)
from benchmarks.world.tokenizers import LIMIT, build
from benchmarks.world.training import Log, Stopper, load_checkpoint, plateau, save_atomic

STEPS, DECAY, BATCH, RATE, WARMUP = 6_600, 1_600, 24, 1.8e-3, 300
"""BATCH is per process."""
PROCESSES = 2
AVERAGE = 0.9995
GAMMA = 5.0
"""Largest signal-to-noise ratio that counts in full."""
COPIES = 10
MIRROR = 0.0
WIDTH = 128
CHECKPOINT = BUILD / "checkpoints" / "generator.pt"
LATENTS = BUILD / "latents.pt"
TOKENIZER = BUILD / "tokenizer"


def build_unet() -> UNet2DConditionModel:
    """The UNet, freshly initialised: 7.1 M parameters, cross-attention at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
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
        """Predicted noise. noisy: [N, 4, 16, 16]; steps: [N]; tokens: [N, 16]."""
        text = self.text_encoder(tokens).last_hidden_state
        predicted: torch.Tensor = self.unet(noisy, steps, text).sample
        return predicted


class FlatParameters:
    """All parameters in one vector and all gradients in another: one step, one exchange, one mean.

    The gradients' last place is free for a message to the other processes.
    """

    def __init__(self, module: nn.Module) -> None:
        """Lay the module's parameters into one vector."""
        parameters = list(module.parameters())
        total = sum(p.numel() for p in parameters)
        self.values = nn.Parameter(torch.empty(total))
        self.buffer = torch.zeros(total + 1)
        self.values.grad = self.buffer[:-1]
        place = 0
        for p in parameters:
            span = slice(place, place + p.numel())
            self.values.data[span] = p.detach().reshape(-1)
            p.data = self.values.data[span].view(p.shape)
            p.grad = self.buffer[span].view(p.shape)
            place += p.numel()

    def exchange(self, processes: int, message: bool) -> bool:
        """Average the gradients over the processes; True if any process sent a message."""
        self.buffer[-1] = float(message)
        if processes > 1:
            dist.all_reduce(self.buffer)
            self.buffer /= processes
        return bool(self.buffer[-1] > 0)

    def clip(self, most: float) -> float:
        """Limit the norm of the gradients; returns what it was."""
        norm = float(self.buffer[:-1].norm())
        if norm > most:
            self.buffer *= most / norm
        return norm


def snr_weights(scheduler: DDIMScheduler, gamma: float = GAMMA) -> torch.Tensor:
    """Weight of the noise error at each of the 1000 timesteps; their mean is 1.

    min(SNR, gamma) / SNR, as usual, times sqrt(1 + 1 / SNR): what a picture is all about is decided
    where there is hardly any signal, and there a large error of the picture is a small one of the
    noise. Without that factor colours and outlines follow the starting noise, not the prompt.
    """
    ratio = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weights = ratio.clamp(max=gamma) / ratio * (1 + 1 / ratio).sqrt()
    return weights / weights.mean()


def latent_copies(drawings: Drawings, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of varied copies, [N, COPIES, 4, 16, 16], and their colours, int64 [N, COPIES].

    Copies are moved by a pixel or two and some are mirrored. A single-colour drawing has each copy
    in another colour; the colour of a coloured one is -1. Kept in a file for the other process.
    """
    key = hashlib.sha256(AUTOENCODER.read_bytes())
    key.update("".join(record["sha256"] for record in drawings.records).encode())
    key.update(f"{seed} {COPIES} {MIRROR}".encode())
    if (kept := load_checkpoint(LATENTS)) is not None and kept["key"] == key.hexdigest():
        return kept["latents"], kept["colours"]
    model, rng, table = load_autoencoder(), torch.Generator().manual_seed(seed), colour_table()
    latents, colours = [], []
    for copy in range(COPIES):
        images = shift_pixels(to_float(drawings.pixels), rng, most=1, mirror=MIRROR)
        colour = torch.full((len(drawings),), -1)
        mono = drawings.mono
        if mono.any():
            colour[mono] = (torch.arange(int(mono.sum())) + copy) % len(table)
            images[mono] = colourise(images[mono], table[colour[mono]])
        latents.append(encode(model, images * 2 - 1))
        colours.append(colour)
    made = {"latents": torch.stack(latents, 1), "colours": torch.stack(colours, 1)}
    save_atomic({"key": key.hexdigest(), **made}, LATENTS)
    return made["latents"], made["colours"]


class Examples:
    """Makes batches: latents and tokens of their captions, all concepts equally often."""

    def __init__(self, drawings: Drawings, tokenizer: CLIPTokenizer, seed: int) -> None:
        """Encode all copies once."""
        manifest = load_manifest()
        names = {n.name: n for n in unambiguous(manifest["concepts"])}
        self.names: list[Names] = [names[record["concept"]] for record in drawings.records]
        self.styles = [manifest["sets"][record["set"]]["style"] for record in drawings.records]
        self.tokenizer, self.seed = tokenizer, seed
        self.latents, self.colours = latent_copies(drawings, seed)
        weight = torch.where(drawings.mono, 0.5, 1.0)
        place = {name: i for i, name in enumerate(names)}
        concept = torch.tensor([place[record["concept"]] for record in drawings.records])
        totals = torch.zeros(len(names)).index_add_(0, concept, weight)
        self.weights = weight / totals[concept]

    def __call__(
        self, step: int, process: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents, noise, timesteps (spread evenly) and tokens of one process's batch."""
        random = Random(f"{self.seed}/{step}/{process}")
        rng = torch.Generator().manual_seed(random.getrandbits(62))
        pick = torch.multinomial(self.weights, BATCH, replacement=True, generator=rng)
        copy = torch.randint(COPIES, (BATCH,), generator=rng)
        texts = []
        for drawing, number in zip(pick.tolist(), copy.tolist(), strict=True):
            colour = int(self.colours[drawing, number])
            word = COLOUR_WORDS[colour] if colour >= 0 else ""
            texts.append(caption(self.names[drawing], random, self.styles[drawing], word))
        latents = self.latents[pick, copy]
        noise = torch.randn(latents.shape, generator=rng)
        spread = (torch.arange(BATCH) + torch.rand((), generator=rng)) / BATCH
        return latents, noise, (spread * 1000).long().clamp(max=999), tokens(self.tokenizer, texts)


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """int64 [N, 16], as StableDiffusionPipeline makes them."""
    ids: torch.Tensor = tokenizer(
        texts, padding="max_length", max_length=LIMIT, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def prepare_tokenizer(folder: Path = TOKENIZER) -> CLIPTokenizer:
    """The generator's tokenizer, learnt once."""
    if not (folder / "tokenizer_config.json").exists():
        manifest = load_manifest()
        styles = [entry["style"] for entry in manifest["sets"].values() if entry["style"]]
        build(every_word(manifest["concepts"], styles), folder)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def load_pipeline(path: Path = CHECKPOINT) -> StableDiffusionPipeline:
    """A checkpoint's averaged weights as a plain diffusers pipeline."""
    content = load_checkpoint(path)
    if content is None:
        raise FileNotFoundError(f"{path}: train the generator first")
    tokenizer = prepare_tokenizer()
    pair = Pair(tokenizer)
    flat = FlatParameters(pair)
    with torch.no_grad():
        flat.values.copy_(content["average"])
    pair.requires_grad_(False).eval()
    pipeline = StableDiffusionPipeline(
        vae=load_autoencoder(),
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


def run(
    process: int, processes: int, meeting: str, steps: int, seed: int, checkpoint: Path, rate: float
) -> None:
    """One process's part of the training."""
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=process, world_size=processes
        )
    torch.manual_seed(seed)
    tokenizer = prepare_tokenizer()
    examples = Examples(load_drawings().only("generator"), tokenizer, seed)
    pair, scheduler = Pair(tokenizer).train(), build_scheduler()
    flat, weights = FlatParameters(pair), snr_weights(scheduler)
    optimiser = torch.optim.AdamW(
        [flat.values], rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    average, first = flat.values.detach().clone(), 0
    if (state := load_checkpoint(checkpoint)) is not None:
        flat.values.data.copy_(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average, first = state["average"], state["step"]
    log, stopper = Log(BUILD / "logs" / "generator.jsonl", quiet=process > 0), Stopper()
    total, began = 0.0, time.monotonic()
    for step in range(first, steps):
        optimiser.param_groups[0]["lr"] = rate * plateau(step, steps, WARMUP, DECAY)
        latents, noise, moments, ids = examples(step, process)
        noisy = scheduler.add_noise(latents, noise, moments)
        flat.buffer.zero_()
        with torch.autocast("cpu", torch.bfloat16):
            predicted = pair(noisy, moments, ids)
        error = F.mse_loss(predicted.float(), noise, reduction="none").mean((1, 2, 3))
        (error * weights[moments]).mean().backward()
        stop = flat.exchange(processes, stopper.asked)
        norm = flat.clip(1.0)
        if norm == norm:  # not NaN
            optimiser.step()
        decay = min(AVERAGE, (1 + step) / (10 + step))
        average.lerp_(flat.values.detach(), 1 - decay)
        total += float(error.detach().mean())
        if (step + 1) % 50 == 0:
            speed = 50 * BATCH * processes / (time.monotonic() - began)
            log(step=step + 1, loss=total / 50, norm=norm, samples_per_second=speed)
            total, began = 0.0, time.monotonic()
        if process == 0 and ((step + 1) % 250 == 0 or stop or step + 1 == steps):
            content: dict[str, Any] = {"model": flat.values.detach(), "average": average}
            content |= {"optimiser": optimiser.state_dict(), "step": step + 1}
            save_atomic(content, checkpoint)
        if stop:
            break
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def train(
    steps: int = STEPS,
    seed: int = 0,
    processes: int = PROCESSES,
    checkpoint: Path = CHECKPOINT,
    rate: float = RATE,
) -> None:
    """Train, or go on where a checkpoint left off. SIGTERM stops between two steps."""
    prepare_tokenizer()
    latent_copies(load_drawings().only("generator"), seed)
    meeting = str(Path(tempfile.mkdtemp(prefix="icons-")) / "meeting")
    context = mp.get_context("spawn")
    helpers = [
        context.Process(
            target=run, args=(i, processes, meeting, steps, seed, checkpoint, rate), daemon=True
        )
        for i in range(1, processes)
    ]
    for helper in helpers:
        helper.start()
    run(0, processes, meeting, steps, seed, checkpoint, rate)
    for helper in helpers:
        helper.join()

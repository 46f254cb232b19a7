"""Train the autoencoder: 64x64 pixels to 16x16x4 latents and back.

`python -m benchmarks.world autoencoder`. Afterwards each latent channel is shifted and scaled to
mean 0 and standard deviation 1 inside the 1x1 convolutions on either side, which changes no
picture; so the model's scaling_factor is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from benchmarks.world.data import (
    BUILD,
    Drawings,
    colour_table,
    colourise,
    contact_sheet,
    load_drawings,
    random_affine,
    shift_pixels,
    to_float,
)
from benchmarks.world.training import (
    Log,
    MovingAverage,
    Stopper,
    cosine,
    load_checkpoint,
    save_atomic,
)

STEPS, BATCH, RATE, WARMUP = 3900, 16, 2.5e-3, 200
KL_WEIGHT = 1e-3
FULL_PRECISION_FROM = 0.9
"""Part of the training after which bfloat16 is left (it is half as fast again, but coarse)."""
CHECKPOINT = BUILD / "checkpoints" / "autoencoder.pt"


def build_autoencoder() -> AutoencoderKL:
    """The autoencoder, freshly initialised: 0.65 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def batch_of(drawings: Drawings, rng: torch.Generator, size: int = BATCH) -> torch.Tensor:
    """A batch of varied drawings, [size, 3, 64, 64] in [-1, 1].

    Half coloured, half single-colour. Single-colour ones are drawn in a named or a random colour;
    half of the coloured ones get their channels exchanged, so that every hue is equally common.
    """
    mono = drawings.mono
    pick = torch.cat(
        [
            pool[torch.randint(len(pool), (size // 2,), generator=rng)]
            for pool in (mono.nonzero()[:, 0], (~mono).nonzero()[:, 0])
        ]
    )
    images = to_float(drawings.pixels[pick])
    half = size // 2
    colours = torch.rand(half, 3, generator=rng)
    table = colour_table()
    named = torch.rand(half, generator=rng) < 0.7
    colours[named] = table[torch.randint(len(table), (int(named.sum()),), generator=rng)]
    images[:half] = colourise(images[:half], colours)
    for i in range(half, half + half // 2):
        images[i] = images[i, torch.randperm(3, generator=rng)]
    if torch.rand((), generator=rng) < 0.5:
        images = shift_pixels(images, rng, most=4)
    else:
        images = random_affine(images, rng, degrees=8)
    return images * 2 - 1


def reconstruction_loss(drawn: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1 of colours, of their differences from grey (hues go brown without) and of the gradients.

    Both [N, 3, H, W] in [-1, 1].
    """
    error = drawn - wanted
    chroma = error - error.mean(1, keepdim=True)
    edges = (error[..., 1:] - error[..., :-1]).abs().mean()
    edges = edges + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + chroma.abs().mean() + 0.5 * edges + 0.5 * F.mse_loss(drawn, wanted)


@torch.no_grad()
def standardise(model: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 without changing any picture.

    mean, std: [4], of the latents as they are. Rewrites quant_conv and post_quant_conv.
    """
    first, last = model.quant_conv, model.post_quant_conv
    channels = len(mean)
    first.weight[:channels] /= std[:, None, None, None]
    first.bias[:channels] = (first.bias[:channels] - mean) / std
    first.bias[channels:] -= 2 * std.log()
    last.bias += last.weight[:, :, 0, 0] @ mean
    last.weight *= std[None, :, None, None]


@torch.no_grad()
def encode(model: AutoencoderKL, images: torch.Tensor, size: int = 64) -> torch.Tensor:
    """[N, 3, 64, 64] in [-1, 1] to the means of the latents, [N, 4, 16, 16]."""
    return torch.cat([model.encode(part).latent_dist.mean for part in images.split(size)])


@torch.no_grad()
def decode(model: AutoencoderKL, latents: torch.Tensor, size: int = 64) -> torch.Tensor:
    """Latents [N, 4, 16, 16] to pictures [N, 3, 64, 64] in [0, 1]."""
    parts = [model.decode(part).sample for part in latents.split(size)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def look(model: AutoencoderKL, drawings: Drawings, path: Path, count: int = 40) -> float:
    """Save drawings beside their copies; returns the mean squared error in [-1, 1]."""
    rng = torch.Generator().manual_seed(1)
    images = batch_of(drawings, rng, count)
    copies = decode(model, encode(model, images))
    pairs = torch.stack([images / 2 + 0.5, copies], 1).flatten(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = Image.fromarray(contact_sheet(pairs, 10))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(path)
    return float(F.mse_loss(copies * 2 - 1, images))


def load_autoencoder(path: Path = CHECKPOINT) -> AutoencoderKL:
    """The averaged weights of a checkpoint, ready to use."""
    content = load_checkpoint(path)
    if content is None:
        raise FileNotFoundError(f"{path}: train the autoencoder first")
    model = build_autoencoder()
    model.load_state_dict(content["average"]["average"])
    if "standardised" in content:
        standardise(model, content["standardised"]["mean"], content["standardised"]["std"])
    return model.eval().requires_grad_(False)


def train(steps: int = STEPS, seed: int = 0, checkpoint: Path = CHECKPOINT) -> None:
    """Train, or go on where a checkpoint left off."""
    torch.manual_seed(seed)
    drawings = load_drawings()
    rng = torch.Generator().manual_seed(seed)
    model = build_autoencoder().train()
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    average = MovingAverage(model, 0.998)
    log, stopper, first = Log(BUILD / "logs" / "autoencoder.jsonl"), Stopper(), 0
    if (state := load_checkpoint(checkpoint)) is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average.load_state_dict(state["average"])
        rng.set_state(state["rng"])
        torch.set_rng_state(state["torch_rng"])
        first = state["step"]

    def save(step: int, extra: dict[str, Any]) -> None:
        content = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
        content |= {"average": average.state_dict(), "rng": rng.get_state()}
        save_atomic(content | {"torch_rng": torch.get_rng_state()} | extra, checkpoint)

    total = 0.0
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * cosine(step, steps, WARMUP)
        images = batch_of(drawings, rng)
        coarse = step < FULL_PRECISION_FROM * steps
        with torch.autocast("cpu", torch.bfloat16, enabled=coarse):
            posterior = model.encode(images).latent_dist
            drawn = model.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var - 1 - posterior.logvar).mean()
        loss = reconstruction_loss(drawn.float(), images) + KL_WEIGHT * kl
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        total += float(loss.detach())
        if (step + 1) % 100 == 0:
            log(step=step + 1, loss=total / 100, kl=float(kl.detach()))
            total = 0.0
        if (step + 1) % 500 == 0 or stopper.asked:
            save(step + 1, {})
        if stopper.asked:
            return
    averaged = build_autoencoder()
    averaged.load_state_dict(average.average)
    averaged.eval()
    sample = torch.cat([batch_of(drawings, rng, 64) for _ in range(16)])
    latents = encode(averaged, sample)
    extra = {"mean": latents.mean((0, 2, 3)), "std": latents.std((0, 2, 3))}
    log(mean=str(extra["mean"].tolist()), std=str(extra["std"].tolist()))
    save(steps, {"standardised": extra})
    error = look(load_autoencoder(checkpoint), drawings, BUILD / "look" / "autoencoder.png")
    log(step=steps, squared_error=error)

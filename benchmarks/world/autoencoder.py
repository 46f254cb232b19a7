"""Train the autoencoder: 128x128 pixels to 16x16x4 latents and back.

`python -m benchmarks.world autoencoder`. On a CPU it learns from crops of 64x64 (four times as many
steps in the same time) and sees whole pictures in the last tenth. Afterwards each latent channel is
shifted and scaled to mean 0 and standard deviation 1 inside the 1x1 convolutions on either side,
which changes no picture; so the model's scaling_factor is 1.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from benchmarks.world.scenes import SIZE, Planner, compose
from benchmarks.world.sprites import BUILD, Sprites, load_sprites
from benchmarks.world.training import (
    EVERY_SECONDS,
    Budget,
    Device,
    Log,
    MovingAverage,
    Stopper,
    cosine,
    load_checkpoint,
    save_atomic,
)

CHANNELS = (8, 24, 48, 96)
RATE, WARMUP, KL_WEIGHT = 2e-3, 100, 1e-3
ANCHOR, GAIN = 6.0, 1.7
"""The constant beside the colours, and what the last norms divide by more than it says."""
WHOLE_FROM = 0.9
"""Part of a CPU's training after which it sees whole pictures."""
CHECKPOINT = BUILD / "checkpoints" / "autoencoder.pt"


def build_autoencoder(channels: tuple[int, ...] = CHANNELS, size: int = SIZE) -> AutoencoderKL:
    """The autoencoder, freshly initialised: 1.5 M parameters, factor 8.

    Norms have one group: with one channel a group, a norm takes the ground's colour away.
    """
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=size,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    carry_colours(model)
    return model


@torch.no_grad()
def carry_colours(model: AutoencoderKL) -> None:
    """Start as a copier of colours: three latents are the mean colours of blocks of 8x8 pixels.

    Found by training alone, colours cost thousands of steps. Channels 0 to 5 of every level are
    red, green and blue and their negatives, so that silu(x) - silu(-x) = x carries them through the
    last norms exactly; channel 6 is a constant, so that those norms divide by about the same
    always. All else, the fourth latent too, starts as usual, and residual branches start at zero.
    """
    signs = [(2 * i + j, i, (1.0, -1.0)[j]) for i in range(3) for j in range(2)]

    def carry(conv: nn.Conv2d, taps: torch.Tensor, rows: list[tuple[int, int, float]]) -> None:
        for row, column, sign in rows:
            conv.weight[row] = 0
            conv.weight[row, column] = sign * taps
            conv.bias[row] = 0
        conv.weight[6], conv.bias[6] = 0, ANCHOR

    one, middle = torch.ones(1, 1), torch.zeros(3, 3)
    middle[1, 1] = 1
    halves = torch.zeros(3, 3)
    halves[:2, :2] = 0.25
    slope = torch.tensor([0.25, 0.5, 0.25])
    same = [(i, i, 1.0) for i in range(6)]
    for name, module in model.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith("conv_shortcut"):
            carry(module, one, same)
        elif name.endswith("downsamplers.0.conv"):
            carry(module, halves, same)
        elif name.endswith("upsamplers.0.conv"):
            carry(module, slope[:, None] * slope, same)
    encoder, decoder = model.encoder, model.decoder
    carry(encoder.conv_in, middle, signs)
    carry(decoder.conv_in, middle, signs)
    for conv, width in (
        (encoder.conv_out, encoder.conv_out.in_channels),
        (decoder.conv_out, decoder.conv_out.in_channels),
    ):
        for i in range(3):
            conv.weight[i], conv.bias[i] = 0, 0
            conv.weight[i, 2 * i, 1, 1] = GAIN * ANCHOR / width**0.5
            conv.weight[i, 2 * i + 1, 1, 1] = -GAIN * ANCHOR / width**0.5
    encoder.conv_out.weight[4:], encoder.conv_out.bias[4:] = 0, -5
    for conv in (model.quant_conv, model.post_quant_conv):
        conv.weight[:] = torch.eye(len(conv.weight))[:, :, None, None]
        conv.bias[:] = 0


class Pool:
    """Composed pictures as bytes, replaced a part at a time, and batches of crops of them."""

    def __init__(self, sprites: Sprites, seed: int, device: Device, count: int) -> None:
        """Compose `count` pictures."""
        self.pixels = sprites.pixels.to(device.name)
        self.planner, self.random = Planner(sprites), Random(f"pool {seed}")
        self.rng = torch.Generator().manual_seed(seed)
        self.pictures = torch.cat(
            [self.fresh(len(part)) for part in torch.arange(count).split(256)]
        )

    def fresh(self, count: int) -> torch.Tensor:
        """uint8 [count, 3, 128, 128]."""
        scenes = [self.planner(self.random) for _ in range(count)]
        return ((compose(self.pixels, scenes) / 2 + 0.5) * 255).round().byte()

    def replace(self, count: int = 64) -> None:
        """Put new pictures in the place of some."""
        places = torch.randint(len(self.pictures), (count,), generator=self.rng)
        self.pictures[places.to(self.pictures.device)] = self.fresh(count)

    def __call__(self, batch: int, crop: int = SIZE) -> torch.Tensor:
        """[batch, 3, crop, crop] in [-1, 1]; a quarter with their colour channels exchanged.

        So every hue is equally common; else reds and purples come out brown.
        """
        pick = torch.randint(len(self.pictures), (batch,), generator=self.rng)
        images = self.pictures[pick.to(self.pictures.device)]
        if crop < SIZE:
            corners = torch.randint(0, SIZE - crop + 1, (batch, 2), generator=self.rng).tolist()
            parts = zip(images, corners, strict=True)
            images = torch.stack([i[:, y : y + crop, x : x + crop] for i, (y, x) in parts])
        orders = torch.rand(batch, 3, generator=self.rng).argsort(1)
        orders[batch // 4 :] = torch.arange(3)
        exchanged = orders.to(images.device)[:, :, None, None].expand_as(images)
        return images.gather(1, exchanged).float() / 127.5 - 1


def reconstruction_loss(drawn: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1 of colours, of their differences from grey and of the gradients, and errors at large.

    Both [N, 3, H, W] in [-1, 1]. Without the differences from grey, and the same of means over 8x8
    pixels, hues go brown for a long time.
    """
    error = drawn - wanted
    edges = (error[..., 1:] - error[..., :-1]).abs().mean()
    edges = edges + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    total = 0.5 * edges + 0.5 * (error**2).mean()
    for part in (error, F.avg_pool2d(error, 8)):
        total = total + part.abs().mean() + (part - part.mean(1, keepdim=True)).abs().mean()
    return total + 2 * (F.avg_pool2d(error, 8) ** 2).mean()


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
    """[N, 3, 128, 128] in [-1, 1] to the means of the latents, [N, 4, 16, 16]."""
    return torch.cat([model.encode(part).latent_dist.mean for part in images.split(size)])


@torch.no_grad()
def decode(model: AutoencoderKL, latents: torch.Tensor, size: int = 64) -> torch.Tensor:
    """Latents [N, 4, 16, 16] to pictures [N, 3, 128, 128] in [0, 1]."""
    parts = [model.decode(part).sample for part in latents.split(size)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def sheet(images: torch.Tensor, columns: int, gap: int = 2) -> Image.Image:
    """Pictures [N, 3, H, W] in [0, 1] side by side."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    whole = torch.ones(3, rows * (height + gap), columns * (width + gap))
    for i, image in enumerate(images.float().cpu()):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        whole[:, y : y + height, x : x + width] = image
    return Image.fromarray((whole.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def look(model: AutoencoderKL, sprites: Sprites, path: Path, count: int = 40) -> float:
    """Save scenes beside their copies; returns the mean squared error in [-1, 1].

    Every second one is a single thing in red, pink or purple: colours that are lost first.
    """
    random, planner = Random("look"), Planner(sprites)
    scenes = []
    for i in range(count):
        scene = planner(random, "single" if i % 2 else "pair")
        if i % 2:
            colour = ("red", "pink", "purple")[i // 2 % 3]
            thing = scene.things[0]
            scene = type(scene)((type(thing)(**vars(thing) | {"colour": colour}),))
        scenes.append(scene)
    images = compose(sprites.pixels, scenes)
    copies = decode(model, encode(model, images))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(torch.stack([images / 2 + 0.5, copies], 1).flatten(0, 1), 10).save(path)
    return float(F.mse_loss(copies * 2 - 1, images))


def load_autoencoder(path: Path = CHECKPOINT) -> AutoencoderKL:
    """The averaged, standardised weights of a checkpoint, ready to use."""
    content = load_checkpoint(path)
    if content is None:
        raise FileNotFoundError(f"{path}: train the autoencoder first")
    model = build_autoencoder()
    model.load_state_dict(content["average"]["average"])
    if "standardised" in content:
        standardise(model, content["standardised"]["mean"], content["standardised"]["std"])
    return model.eval().requires_grad_(False)


def train(
    budget: Budget,
    seed: int = 0,
    device: Device | None = None,
    checkpoint: Path = CHECKPOINT,
    sprites: Sprites | None = None,
    batch: int | None = None,
    pool: int | None = None,
) -> None:
    """Train, or go on where a checkpoint left off. SIGTERM stops between two steps."""
    device = device or Device.of()
    sprites = sprites or load_sprites()
    batch = batch or (256 if device.fast else 8)
    torch.manual_seed(seed)
    state = load_checkpoint(checkpoint)
    first = state["step"] if state else 0
    if state is not None and checkpoint.with_name("generator.pt").exists():
        print(f"{checkpoint} stays as it is: a generator has learnt its latents")
        return
    if state is not None and budget.spent_all(state["step"], state["seconds"]):
        return
    pictures = Pool(sprites, seed + first, device, pool or (16384 if device.fast else 3072))
    model = build_autoencoder().train().to(device.name)
    rate = RATE * (1.5 if device.fast else 1.0)
    optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=1e-4)
    average = MovingAverage(model, 0.998)
    log, stopper = Log(checkpoint.parent.parent / "logs" / "autoencoder.jsonl"), Stopper()
    if state is not None:
        model.load_state_dict(state["model"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        average.load_state_dict(state["average"])
        budget.spent = state["seconds"]
    forward = device.compiled(Copier(model))

    def save(step: int, extra: dict[str, Any]) -> None:
        content = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
        content |= {"average": average.state_dict(), "seconds": budget.seconds}
        save_atomic(content | extra, checkpoint)

    step, total, saved = first, 0.0, budget.seconds
    while (progress := budget.progress(step)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * cosine(step, progress, WARMUP)
        whole = device.fast or progress >= WHOLE_FROM
        few = whole and not device.fast
        images = pictures(max(2, batch // 4) if few else batch, SIZE if whole else SIZE // 2)
        with device.autocast():
            drawn, kl = forward(images)
        loss = reconstruction_loss(drawn.float(), images) + KL_WEIGHT * kl.float()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        step += 1
        if step % (8 if device.fast else 32) == 0:
            pictures.replace(512 if device.fast else 8)
        total += float(loss.detach())
        if step % 100 == 0:
            log(step=step, loss=total / 100, kl=float(kl.detach()), seconds=budget.seconds)
            total = 0.0
        if budget.seconds - saved > EVERY_SECONDS or stopper.asked:
            save(step, {"done": False})
            saved = budget.seconds
        if stopper.asked:
            return
    averaged = build_autoencoder().to(device.name)
    averaged.load_state_dict(average.average)
    averaged.eval().requires_grad_(False)
    sample = pictures(min(512, len(pictures.pictures)))
    latents = encode(averaged, sample)
    standard = {"mean": latents.mean((0, 2, 3)), "std": latents.std((0, 2, 3))}
    save(step, {"done": True, "standardised": standard})
    path = checkpoint.parent.parent / "look" / "autoencoder.png"
    count = min(40, len(pictures.pictures) // 16)
    log(step=step, squared_error=look(load_autoencoder(checkpoint), sprites, path, count))


class Copier(nn.Module):
    """The autoencoder's whole pass, in one piece for torch.compile."""

    def __init__(self, model: AutoencoderKL) -> None:
        """Share the model's parameters."""
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The copies of images [N, 3, H, W], and the KL divergence per latent number."""
        moments = self.model.quant_conv(self.model.encoder(images))
        mean, logvar = moments.chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        latents = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return self.model.decoder(self.model.post_quant_conv(latents)), kl

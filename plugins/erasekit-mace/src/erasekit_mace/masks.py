"""Where the concept is in pictures of it: from attention, or as the user gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from erasekit.concepts import slug
from erasekit.diffusion.clean_latents import CleanLatents
from erasekit.errors import ConfigError
from erasekit.models.families import FamilyAdapter
from erasekit_mace.attention import attended, recording

NOISE_LEVELS = (0.2, 0.35, 0.5)
"""Timesteps at which attention is looked at, as shares of all."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def thresholded(shares: Tensor, threshold: float) -> Tensor:
    """1 where a position has `threshold` of the way from the least to the most attention, else 0.

    An image that attends everywhere alike is all 1.

    Args:
        shares: [N, 1, h, w].
        threshold: from 0 to 1.
    """
    low, high = shares.amin(dim=(1, 2, 3), keepdim=True), shares.amax(dim=(1, 2, 3), keepdim=True)
    return (shares >= low + threshold * (high - low)).to(shares.dtype)


@torch.no_grad()
def attention_masks(
    family: FamilyAdapter,
    source: CleanLatents,
    prompt_embeds: Tensor,
    places: list[slice],
    threshold: float,
    generator: torch.Generator,
) -> Tensor:
    """M of each picture, [N, 1, h, w], from the UNet's attention as it is now.

    One pass for each picture and level of noise.

    Args:
        family: the adapter.
        source: the pictures.
        prompt_embeds: the prompts, [P, L, D].
        places: of the concept's tokens in each prompt.
        threshold: see `thresholded`.
        generator: draws the noise.
    """
    size = (source.latents.shape[2], source.latents.shape[3])
    steps = len(family.alphas_cumprod)

    def reader(own: slice) -> Callable[[Callable[[], Tensor], Tensor], Tensor]:
        def read(unet_pass: Callable[[], Tensor], planes: Tensor) -> Tensor:
            with recording(family.unet) as recorded:
                unet_pass()
            return attended(recorded.maps(), size, own)

        return read

    found = []
    for number, prompt in enumerate(source.prompts.tolist()):
        image = torch.tensor([number])
        total = torch.zeros(1, 1, *size, device=family.device)
        for level in NOISE_LEVELS:
            noised = source.draw(image, generator, torch.tensor([int(level * steps)]))
            total += family.read_pass(
                reader(places[prompt]),
                noised.latents,
                noised.timesteps,
                prompt_embeds[prompt : prompt + 1],
                noised.latents[:, :0],
            )
        found.append(total)
    return thresholded(torch.cat(found), threshold)


def read_pictures(folder: str, concept: str, size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """The pictures in FOLDER/CONCEPT, uint8 [H, W, 3] each, by file name without suffix.

    Args:
        folder: has a folder for each concept, such as "garbage-truck".
        concept: as it is erased.
        size: height and width that they are scaled to.

    Raises:
        ConfigError: there is none, or one can't be read.
    """
    from PIL import Image

    place = Path(folder).expanduser() / slug(concept)
    files = sorted(p for p in place.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(
            f"There are no pictures of {concept!r} in {str(place)!r}; put some there."
        )
    found = {}
    for path in files:
        try:
            with Image.open(path) as file:
                scaled = file.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
        except (OSError, ValueError, SyntaxError) as error:
            raise ConfigError(f"The picture {str(path)!r} can't be read ({error}).") from error
        found[path.stem] = np.asarray(scaled)
    return found


def read_masks(
    folder: str, concept: str, names: list[str], size: tuple[int, int], latents: tuple[int, int]
) -> Tensor:
    """The masks of pictures, [N, 1, h, w] from 0 (black) to 1 (white: the concept).

    Args:
        folder: has the masks of each concept under the names of its pictures.
        concept: as it is erased.
        names: of its pictures.
        size: height and width of pictures.
        latents: height and width of latents; a position has the mean of its pixels.

    Raises:
        ConfigError: one is missing, or has no white in it.
    """
    masks = read_pictures(folder, concept, size)
    missing = [name for name in names if name not in masks]
    if missing:
        raise ConfigError(
            f"The picture {missing[0]!r} of {concept!r} has no mask of that name in {folder!r}."
        )
    pixels = np.stack([masks[name].mean(axis=2) for name in names])
    found = functional.adaptive_avg_pool2d(torch.from_numpy(pixels)[:, None].float() / 255, latents)
    for name, mask in zip(names, found, strict=True):
        if not bool(mask.any()):
            raise ConfigError(
                f"The mask {name!r} of {concept!r} is black all over; the concept should be white."
            )
    return found

"""Cross-attention maps of a UNet pass, and the loss on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from erasekit.errors import ConfigError, ScopeError


class Recorded:
    """Queries and keys of the cross-attention layers in one pass.

    They are kept as they are and multiplied afterwards, so that a pass with gradient checkpointing
    does the same when it is run again.
    """

    def __init__(self) -> None:
        self.queries: dict[str, Tensor] = {}
        self.keys: dict[str, Tensor] = {}
        self.layers: dict[str, Any] = {}

    def maps(self) -> list[Tensor]:
        """softmax(q k^T / sqrt(d)) of each layer, [B, heads, positions, L], float32.

        Raises:
            ConfigError: the pass was compiled without the hooks that record it.
        """
        if not self.queries:
            raise ConfigError(
                "Cross-attention can't be seen in a compiled UNet; erase without compile_unet."
            )
        return [self._map(name) for name in self.queries]

    def _map(self, name: str) -> Tensor:
        heads, scale = self.layers[name].heads, self.layers[name].scale
        query, key = (
            part.reshape(*part.shape[:2], heads, -1).transpose(1, 2).float()
            for part in (self.queries[name], self.keys[name])
        )
        scores: Tensor = query @ key.transpose(2, 3) * scale
        return scores.float().softmax(dim=-1)


def cross_attention(unet: nn.Module) -> dict[str, Any]:
    """The cross-attention layers, by name.

    Raises:
        ScopeError: there is none.
    """
    found = {name: m for name, m in unet.named_modules() if name.endswith("attn2")}
    found = {name: m for name, m in found.items() if hasattr(m, "to_q") and hasattr(m, "heads")}
    if not found:
        raise ScopeError("The method 'mace' works on cross-attention, and this model has none.")
    return found


@contextmanager
def recording(unet: nn.Module) -> Iterator[Recorded]:
    """For the block, the pass of the UNet is recorded, by forward hooks."""
    recorded = Recorded()
    with ExitStack() as stack:
        for name, layer in cross_attention(unet).items():
            recorded.layers[name] = layer
            for part, kept in ((layer.to_q, recorded.queries), (layer.to_k, recorded.keys)):
                stack.callback(part.register_forward_hook(_keeping(name, kept)).remove)
        yield recorded


def _keeping(name: str, kept: dict[str, Tensor]) -> Any:
    def keep(layer: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        kept[name] = output

    return keep


def sides(latents: tuple[int, int], positions: int) -> tuple[int, int]:
    """Height and width of a layer with so many positions: those of latents, halved and rounded up.

    Raises:
        ConfigError: there is no such layer.
    """
    height, width = latents
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != positions:
        raise ConfigError(
            f"A cross-attention layer has {positions} positions, which is no halving of latents of "
            f"{latents[0]} x {latents[1]}; the method 'mace' can't place masks there."
        )
    return height, width


def suppression(maps: list[Tensor], masks: Tensor, places: slice) -> Tensor:
    """The mean over layers, heads and positions of (A * M)^2, summed over the concept's tokens.

    Lu et al., CVPR 2024, has the squared Frobenius norm, summed over layers and tokens.

    Args:
        maps: A of each layer, [B, heads, positions, L].
        masks: M, [B, 1, h, w], from 0 to 1; in a layer of fewer positions each has the mean of M.
        places: of the concept's tokens.

    Returns:
        [B], float32.
    """
    losses = []
    for attention in maps:
        size = sides((masks.shape[2], masks.shape[3]), attention.shape[2])
        mask = functional.adaptive_avg_pool2d(masks.float(), size).flatten(2)
        masked = attention[..., places] * mask[..., None]
        losses.append(masked.square().sum(dim=3).mean(dim=(1, 2)))
    return torch.stack(losses).mean(dim=0)


def attended(maps: list[Tensor], size: tuple[int, int], places: slice) -> Tensor:
    """How much each position of latents attends to the concept's tokens, [B, 1, h, w], float32.

    The sum over the tokens, the mean over heads and layers, smaller layers interpolated.

    Args:
        maps: of each layer, [B, heads, positions, L].
        size: height and width of latents.
        places: of the concept's tokens.
    """
    layers = []
    for attention in maps:
        shares = attention[..., places].sum(dim=3).mean(dim=1)
        grid = shares.reshape(-1, 1, *sides(size, attention.shape[2]))
        layers.append(functional.interpolate(grid, size, mode="bilinear", align_corners=False))
    return torch.stack(layers).mean(dim=0)

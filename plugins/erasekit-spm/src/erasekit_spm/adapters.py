"""One-dimensional adapters on layers of a UNet, opened row by row.

A layer with weight W gives W x + sum_e s_e u_e (v_e^T x) for E concepts, where the strength s_e
depends on the row of the batch. For a convolution v_e is a kernel of the layer's size with one
output channel, u_e one of size 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ScopeError

DOWN, UP = ".spm.down", ".spm.up"
"""After a layer's name: v [E, in] or [E, c, h, w], and u [out, E] or [out, E, 1, 1]."""

Factors = Callable[[], tuple[Tensor, Tensor]]
"""Gives v and u of one layer, as they are now."""
Strengths = Callable[[Tensor], Tensor]
"""Prompt embeddings of a pass, [B, L, D] -> how far each concept's adapters open, [B, E]."""


def adapted_layers(unet: nn.Module, scope: ParameterScope) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and convolutions whose weight is in scope, by name.

    Raises:
        ScopeError: there is none.
    """
    found = {
        name: layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if scope.matches(f"{name}.weight")
    }
    if not found:
        raise ScopeError(
            f"The method 'spm' puts adapters on linear layers and convolutions, and the scope "
            f"{scope.name!r} has none; use --scope xattn or full."
        )
    return found


def new_factors(
    layer: nn.Linear | nn.Conv2d, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """v and u of `count` concepts; v uniform in +-1/sqrt(fan in), u zero, so nothing changes yet.

    Float32, where the layer is.
    """
    shape = layer.weight.shape[1:]
    bound = 1 / math.sqrt(math.prod(shape))
    down = (torch.rand(count, *shape, generator=generator) * 2 - 1) * bound
    up = torch.zeros(layer.weight.shape[0], count, *(1 for _ in shape[1:]))
    return down.to(layer.weight.device), up.to(layer.weight.device)


def adapter_output(
    layer: nn.Linear | nn.Conv2d, x: Tensor, down: Tensor, up: Tensor, strengths: Tensor
) -> Tensor:
    """sum_e s_e u_e (v_e^T x), in the shape of the layer's output.

    Args:
        layer: the layer, for stride, padding and dilation.
        x: its input, [B, ..., in] or [B, c, h, w].
        down, up: v and u.
        strengths: s, [B, E].
    """
    down, up, strengths = down.to(x.dtype), up.to(x.dtype), strengths.to(x)
    if isinstance(layer, nn.Conv2d):
        inner = functional.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
        return functional.conv2d(inner * strengths[:, :, None, None], up)
    inner = functional.linear(x, down)
    between = (1,) * (x.dim() - 2)
    return functional.linear(inner * strengths.view(len(x), *between, -1), up)


def product(down: Tensor, up: Tensor) -> Tensor:
    """sum_e u_e v_e^T as a change of the layer's weight, in its shape; all strengths 1."""
    return torch.einsum("oe,e...->o...", up.flatten(1), down)


@contextmanager
def adapters_installed(
    unet: nn.Module, factors: Mapping[str, Factors], strengths: Strengths
) -> Iterator[None]:
    """For the block the UNet works with adapters, by forward hooks alone.

    Args:
        unet: the module; its weights are not touched.
        factors: what gives v and u, by the name of their layer.
        strengths: asked once in each pass.
    """
    opened: list[Tensor] = []

    def open_them(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeds = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]
        opened[:] = [strengths(embeds)]
        return args, kwargs

    with ExitStack() as stack:
        handle = unet.register_forward_pre_hook(open_them, with_kwargs=True)
        stack.callback(handle.remove)
        for name, own in factors.items():
            hook = _adding(own, opened)
            stack.callback(unet.get_submodule(name).register_forward_hook(hook).remove)
        yield


def _adding(factors: Factors, opened: list[Tensor]) -> Callable[..., Tensor]:
    def add(layer: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + adapter_output(layer, args[0], *factors(), opened[0])

    return add

"""LoRA on keys and values of cross-attention, one set for each concept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ScopeError
from erasekit.methods.closed_form import PROJECTIONS

WEIGHT, CHILD = ".weight", "mace"


class Adapter(nn.Module):
    """v [R, D] and u [out, R] of one layer and concept; u is zero, so nothing changes yet."""

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(layer.in_features)
        down = (torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) * bound
        device = layer.weight.device
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))


def projections(unet: nn.Module, scope: ParameterScope) -> dict[str, nn.Linear]:
    """The key and value projections of cross-attention in scope, by name.

    Raises:
        ScopeError: there is none.
    """
    found = {
        name: layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and f"{name}{WEIGHT}".endswith(PROJECTIONS)
        if scope.matches(f"{name}{WEIGHT}")
    }
    if not found:
        raise ScopeError(
            f"The method 'mace' edits keys and values of cross-attention, and the scope "
            f"{scope.name!r} has none; use --scope xattn-kv."
        )
    return found


class Adapters:
    """The adapters of all concepts on a UNet, of which one concept's work at a time.

    Args:
        layers: the projections, by name.
        rank: of each adapter.
        generators: draw v, one for each concept.

    Attributes:
        active: the concept whose adapters work.
        refinement: W' - W of each layer, [out, D], added too; empty before it is known.
        parameters: of all adapters, by their names in the UNet.
    """

    def __init__(
        self, layers: Mapping[str, nn.Linear], rank: int, generators: Sequence[torch.Generator]
    ) -> None:
        self.layers = layers
        self.active = 0
        self.refinement: dict[str, Tensor] = {}
        self._own = {
            name: nn.ModuleList([Adapter(layer, rank, generator) for generator in generators])
            for name, layer in layers.items()
        }
        self.parameters = {
            f"{name}.{CHILD}.{part}": parameter
            for name, own in self._own.items()
            for part, parameter in own.named_parameters()
        }

    @contextmanager
    def installed(self) -> Iterator[None]:
        """For the block they are submodules of their layers, and work by forward hooks."""
        with ExitStack() as stack:
            for name, layer in self.layers.items():
                layer.add_module(CHILD, self._own[name])
                stack.callback(layer._modules.pop, CHILD)
                stack.callback(layer.register_forward_hook(self._adding(name)).remove)
            yield

    def choose(self, concept: int) -> list[nn.Parameter]:
        """Let one concept's adapters work, and give their parameters."""
        self.active = concept
        return [parameter for own in self._own.values() for parameter in own[concept].parameters()]

    def factors(
        self, name: str, trained: Mapping[str, Tensor] | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """v and u of each concept in one layer, from `trained` values by name."""
        values = trained or self.parameters
        count = len(self._own[name])
        stems = [f"{name}.{CHILD}.{number}" for number in range(count)]
        return [(values[f"{stem}.down"].detach(), values[f"{stem}.up"].detach()) for stem in stems]

    def _adding(self, name: str) -> Any:
        own = self._own[name]

        def add(layer: nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x, adapter = args[0], own[self.active]
            assert isinstance(adapter, Adapter)
            if name in self.refinement:
                output = output + functional.linear(x, self.refinement[name].to(x.dtype))
            inner = functional.linear(x, adapter.down.to(x.dtype))
            return output + functional.linear(inner, adapter.up.to(x.dtype))

        return add

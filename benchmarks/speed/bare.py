"""The passes of a training loop with nothing around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from erasekit.models.families import FamilyAdapter


class BarePasses:
    """The UNet's calls, written down, and made again: what a loop can't do without.

    A call is made again at the loop's own batch shapes, forward and, where the loop did, backward:
    into the parameters in scope, and into the embeddings where the search shares the pass.

    Args:
        family: whose UNet is called.
        scope: names of the parameters that are trained.
    """

    def __init__(self, family: FamilyAdapter, scope: Iterable[str]) -> None:
        self.family, self.plain = family, family._run_unet
        wanted = set(scope)
        unet: nn.Module = family.unet
        self.parameters = [p for name, p in unet.named_parameters() if name in wanted]
        self.calls: list[tuple[Tensor, Tensor, Tensor, bool, bool]] = []

    @contextmanager
    def written(self) -> Iterator[None]:
        """For the block, calls are written down."""

        def run(latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
            wanted = torch.is_grad_enabled()
            kept = latents.detach(), timesteps, embeds.detach()
            self.calls.append((*kept, wanted, wanted and embeds.requires_grad))
            return self.plain(latents, timesteps, embeds)

        with patch.object(self.family, "_run_unet", run):
            yield

    def again(self) -> None:
        """Make them all once more."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        for latents, timesteps, embeds, wanted, shared in self.calls:
            embeds.requires_grad_(shared)
            with torch.set_grad_enabled(wanted):
                output = self.plain(latents, timesteps, embeds)
            if wanted:
                inputs = [*self.parameters, embeds] if shared else self.parameters
                torch.autograd.grad(output.square().mean(), inputs)
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    @property
    def forward(self) -> int:
        """Forward passes, batch-weighted."""
        return sum(len(call[0]) for call in self.calls)

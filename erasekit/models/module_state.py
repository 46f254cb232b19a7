"""Working on a pipeline that somebody else goes on using: held still, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def components(pipeline: Any) -> list[nn.Module]:
    """The modules of a diffusers pipeline: UNet, VAE, text encoders."""
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


def freeze(pipeline: Any) -> None:
    """No parameter requires a gradient, and every module is in eval mode, from now on."""
    for component in components(pipeline):
        component.requires_grad_(False).eval()


@contextmanager
def held_still(pipeline: Any) -> Iterator[None]:
    """The pipeline frozen for the block.

    Afterwards every parameter's `requires_grad` and gradient, and every module's train or eval
    mode, are as they were, also where the block fails.
    """
    parts = components(pipeline)
    parameters = [p for part in parts for p in part.parameters()]
    wanted = [p for p in parameters if p.requires_grad]
    gradients = [(p, p.grad) for p in parameters if p.grad is not None]
    training = [module for part in parts for module in part.modules() if module.training]
    freeze(pipeline)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module in training:
            module.training = True

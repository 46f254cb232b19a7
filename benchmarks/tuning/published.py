"""The published schedule under the same yardstick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.published import PublishedConfig, erase_as_published
from benchmarks.tuning.along import AlongTheRun, Enough, Yardstick
from erasekit.concepts import Erasure
from erasekit.diffusion.concept_space import concept_space
from erasekit.models.loading import LoadedModel
from erasekit.models.unet_passes import PassCount
from erasekit.plugin.registry import Registry

NAME = "published"


def watch_published(
    model: LoadedModel,
    registry: Registry,
    concept: str,
    seed: int,
    settings: Mapping[str, Any],
    steps: Sequence[int],
    yardstick: Yardstick,
) -> AlongTheRun:
    """Run the published schedule for `max(steps)` steps on theta', and give the points.

    Args:
        settings: fields of `PublishedConfig`, and `num_concepts`, the size of R.
    """
    erasure, passes = Erasure((model.concept(concept),)), PassCount()
    own = {key: value for key, value in settings.items() if key != "num_concepts"}
    config = PublishedConfig(**{**own, "steps": max(steps)})
    watch = AlongTheRun(model, registry, erasure, steps, yardstick, passes)

    def on_weights(step: int, values: Mapping[str, Tensor]) -> None:
        if step in watch.steps:
            with installed(model.unet, values):
                watch.on_weights(step, values)

    family = model.family
    features = family.word_features([concept])
    space = concept_space(model, erasure).nearest(features, settings["num_concepts"])
    with suppress(Enough):
        erase_as_published(
            model.pipeline,
            family.embed_prompts([concept]),
            space.prompt_embeds,
            family.unconditional_embeds(),
            config,
            seed,
            passes=passes,
            on_weights=on_weights,
        )
    return watch


@contextmanager
def installed(unet: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """For the block, `unet` has these values."""
    parameters = dict(unet.named_parameters())
    before = {name: parameters[name].detach().clone() for name in values}
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)

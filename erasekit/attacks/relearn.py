"""Relearning: how little fine-tuning brings the concept back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

import torch
from pydantic import Field

from erasekit.attacks.base import Attack, AttackContext, AttackSettings, Attempt
from erasekit.attacks.token_search import search_loss
from erasekit.diffusion.clean_latents import CleanLatents
from erasekit.diffusion.scope import ParameterScope


class RelearnSettings(AttackSettings):
    """A round is `steps` of fine-tuning and a picture of every target that is still open."""

    steps: int = Field(10, gt=0, description="fine-tuning steps before each picture")
    learning_rate: float = Field(
        0.0, ge=0, description="Adam's; 0 takes what the model's registration has for erasures"
    )
    batch_size: int = Field(4, gt=0, description="pictures of a step")
    images: int = Field(25, gt=0, description="pictures of each concept to learn from")
    scope: str = Field("auto", description="parameters that change, as of `erase`")


class Relearn(Attack):
    """Fine-tune theta' by the plain denoising loss, and draw the concept by its name.

    The pictures come from other starting noises than the targets'. The weights are put back.
    """

    Config = RelearnSettings
    config: RelearnSettings

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """`steps` steps, then a picture of each."""
        config, model, concepts = self.config, context.model, context.concepts
        with context.unerased():
            latents = [context.draw_pictures(concept, config.images) for concept in concepts]
        shown = [row for row, own in enumerate(latents) for _ in own]
        clean = CleanLatents(context.family, torch.cat(latents), torch.tensor(shown))
        embeds = context.family.embed_prompts([concept.text for concept in concepts])
        scope = ParameterScope.for_concepts(concepts)
        if config.scope != "auto":
            scope = ParameterScope(config.scope)
        parameters = list(scope.select(model.unet).values())
        registered = model.descriptor.defaults.get("*", {}).get("learning_rate", 1e-5)
        before = [parameter.data for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.data = parameter.data.clone()
                parameter.requires_grad_()
            optimizer = torch.optim.Adam(parameters, lr=config.learning_rate or registered)
            numbers = count()
            for _ in range(config.pictures):
                for number in (next(numbers) for _ in range(config.steps)):
                    generator = context.generator(number, "relearn")
                    size = config.batch_size
                    chosen = torch.randint(len(clean.latents), (size,), generator=generator)
                    batch = clean.draw(chosen, generator)
                    own = embeds[clean.prompts[chosen].to(embeds.device)]
                    loss = search_loss(context, batch, own, batch.noise, torch.arange(size)) / size
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                yield {row: Attempt(context.targets[row].prompt) for row in context.open}
        finally:
            for parameter, data in zip(parameters, before, strict=True):
                parameter.data, parameter.grad = data, None
                parameter.requires_grad_(False)

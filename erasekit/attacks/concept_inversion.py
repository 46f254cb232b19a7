"""Concept inversion: a token vector of no word that draws the concept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from erasekit.attacks.base import Attack, AttackContext, AttackSettings, Attempt
from erasekit.attacks.paraphrase import templates
from erasekit.attacks.token_search import laid_out, search_loss, tokens_of
from erasekit.concepts import Concept
from erasekit.diffusion.clean_latents import CleanLatents

_FIRST_WORD = {"style": "art", "identity": "person", "explicit": "person"}


class InversionSettings(AttackSettings):
    """Defaults as published: 5,000 steps, a picture every 100."""

    steps: int = Field(100, gt=0, description="steps of the inversion before each picture")
    learning_rate: float = Field(0.08, gt=0, description="AdamW's, for the batch as a whole")
    batch_size: int = Field(16, gt=0, description="pictures of a step")
    images: int = Field(25, gt=0, description="pictures of the concept to learn from")


class ConceptInversion(Attack):
    """Pham et al., ICLR 2024: textual inversion against theta'.

    v* = argmin of || eps - eps_theta'(z_t, tau("a photo of *")) ||^2, where * has the vector v and
    everything else is frozen. Not bound to words, it is an upper bound of searches for tokens. Its
    pictures come from other starting noises than the targets'.
    """

    Config = InversionSettings
    config: InversionSettings

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """`steps` steps for each concept, then its vector as it is."""
        learned = {
            concept: _Inversion(context, concept, self.config) for concept in context.concepts
        }
        for number in range(self.config.pictures):
            found = {}
            for concept, inversion in learned.items():
                if rows := context.open_of(concept):
                    for step in range(self.config.steps):
                        inversion.step(number * self.config.steps + step)
                    attempt = inversion.attempt()
                    found.update(dict.fromkeys(rows, attempt))
            yield found


class _Inversion:
    """One concept's vector, [1, T], and what it is learned from."""

    def __init__(self, context: AttackContext, concept: Concept, config: InversionSettings) -> None:
        self.context, self.config = context, config
        self.templates = templates(concept)
        with context.unerased():
            latents = context.draw_pictures(concept, config.images)
        self.clean = CleanLatents(context.family, latents, torch.zeros(len(latents)).long())
        first = tokens_of(context.clip, _FIRST_WORD.get(concept.kind, "object"))
        self.vector = context.clip.token_table()[first].mean(dim=0, keepdim=True).float()
        self.vector.requires_grad_()
        self.optimizer = torch.optim.AdamW([self.vector], lr=config.learning_rate)

    def embed(self, templates: Sequence[str]) -> Tensor:
        """Prompt embeddings, [B, L, D], of templates with the vector in the place of {}."""
        family, rows = self.context.clip, list[list[int | None]]()
        for template in templates:
            before, _, after = template.partition("{}")
            rows.append([*tokens_of(family, before), None, *tokens_of(family, after)])
        ids, free = laid_out(family, rows)
        return self.context.embed_tokens(ids, free, self.vector.expand(len(rows), -1))

    def step(self, number: int) -> None:
        """One step of the inversion."""
        generator = self.context.generator(number, "concept inversion")
        size = self.config.batch_size
        chosen = torch.randint(len(self.clean.latents), (size,), generator=generator)
        places = torch.randint(len(self.templates), (size,), generator=generator).tolist()
        embeds = self.embed([self.templates[place] for place in places])
        batch = self.clean.draw(chosen, generator)
        loss = search_loss(self.context, batch, embeds, batch.noise, torch.arange(size)) / size
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @torch.no_grad()
    def attempt(self) -> Attempt:
        """The vector in the first template."""
        embeds = self.embed(self.templates[:1])[0]
        return Attempt(self.templates[0].format("*"), prompt_embeds=embeds)

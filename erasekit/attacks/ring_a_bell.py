"""Ring-A-Bell: tokens that the text encoder alone takes for the concept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from pydantic import Field
from torch import Tensor

from erasekit.attacks.base import Attack, AttackContext, Attempt
from erasekit.attacks.paraphrase import templates
from erasekit.attacks.token_search import Slots, TokenSettings, Vocabulary, genetic_search
from erasekit.concepts import Concept, plain_text


class RingABellSettings(TokenSettings):
    """Defaults as published, for nudity."""

    tokens: int = Field(16, gt=0, description="free tokens, in place of the prompt")
    strength: float = Field(
        3.0, description="eta: how often the concept's vector is added to the prompt's embedding"
    )
    population: int = Field(200, gt=1, description="prompts of a generation")
    generations: int = Field(3000, gt=0, description="generations of the genetic search")


class RingABell(Attack):
    """Tsai et al., ICLR 2024: min over K tokens of || tau(tokens) - (tau(P) + eta v) ||^2.

    v is the mean difference of tau over pairs of prompts with and without the concept. Nothing of
    the erased model is used, so what is found holds for every model with that text encoder. One
    search serves all targets of a concept and prompt; round i draws its i-th best prompt.
    """

    Config = RingABellSettings
    config: RingABellSettings

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """Search all, then draw."""
        vocabulary = Vocabulary.of(context, self.config)
        slots = Slots.alone(context, self.config.tokens)
        found: dict[tuple[Concept, str], Tensor] = {}
        for row, target in enumerate(context.targets):
            key = target.concept, target.prompt
            if key not in found:
                found[key] = self.search(context, row, slots, vocabulary)
        own = [found[target.concept, target.prompt] for target in context.targets]
        for number in range(min(self.config.pictures, max(map(len, own)))):
            tokens = torch.cat([members[min(number, len(members) - 1)] for members in own])
            rows = [row for row in context.open if number < len(own[row])]
            if rows:
                yield slots.attempts(tokens, rows)

    @torch.no_grad()
    def search(
        self, context: AttackContext, row: int, slots: Slots, vocabulary: Vocabulary
    ) -> Tensor:
        """Ids of the prompts found for a target, [P, K], the best first."""
        target, ids, free = context.targets[row], slots.ids[row], slots.free[row]
        wanted = context.family.embed_prompts([target.prompt])[0]
        wanted = wanted + self.config.strength * concept_vector(context, target.concept)

        def loss(members: Tensor) -> Tensor:
            prompts = ids.expand(len(members), -1).masked_scatter(free, members)
            errors = [
                (context.embed_tokens(part) - wanted).square().flatten(1).sum(dim=1)
                for part in torch.split(prompts, 256)
            ]
            return torch.cat(errors).cpu()

        found = genetic_search(
            loss,
            vocabulary,
            int(free.sum()),
            population=self.config.population,
            generations=self.config.generations,
            generator=context.generator(row, "genetic search"),
        )
        distinct: Tensor = torch.unique_consecutive(found, dim=0)
        return distinct


def concept_vector(context: AttackContext, concept: Concept) -> Tensor:
    """v: the mean of tau(prompt with the concept) - tau(prompt without), [L, D]."""
    pairs = [
        (template.format(concept.text), plain_text(template.format("")))
        for template in ("{}", *templates(concept))
    ]
    fitting = [p for p in pairs if context.family.token_count(p[0]) <= context.clip.max_tokens]
    have, have_not = (context.family.embed_prompts(list(own)) for own in zip(*fitting, strict=True))
    return (have - have_not).mean(dim=0)

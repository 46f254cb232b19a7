"""Other starting noises of the same prompt: a control without any search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from erasekit.attacks.base import Attack, AttackContext, Attempt


class SeedSearch(Attack):
    """The prompt as it is, from another starting noise in each round."""

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """A starting noise a round and target."""
        for number in range(self.config.pictures):
            generator = context.generator(number, "starting noises")
            seeds = torch.randint(2**31, (len(context.targets),), generator=generator).tolist()
            yield {
                row: Attempt(context.targets[row].prompt, seed=seeds[row]) for row in context.open
            }

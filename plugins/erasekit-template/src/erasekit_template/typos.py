"""An attack: the concept's name with a typing error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from erasekit.attacks.base import Attack, AttackContext, Attempt


class Typos(Attack):
    """Two neighbouring letters of the prompt change places, others in each round."""

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """A typing error a round and target."""
        for number in range(self.config.pictures):
            generator = context.generator(number, "typos")
            found = {}
            for row in context.open:
                prompt = context.targets[row].prompt
                places = max(1, len(prompt) - 1)
                place = int(torch.randint(places, (1,), generator=generator))
                swapped = prompt[place : place + 2][::-1]
                wrong = prompt[:place] + swapped + prompt[place + 2 :]
                found[row] = Attempt(wrong, added=wrong)
            yield found

"""Random tokens before the prompt: the control of every search for tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from erasekit.attacks.base import Attack, AttackContext, Attempt
from erasekit.attacks.token_search import Slots, TokenSettings, Vocabulary


class RandomTokens(Attack):
    """Other random tokens for each picture, where UnlearnDiffAtk searches them."""

    Config = TokenSettings
    config: TokenSettings

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """A draw a round."""
        slots = Slots.before(context, self.config.tokens)
        vocabulary = Vocabulary.of(context, self.config)
        for number in range(self.config.pictures):
            drawn = vocabulary.draw(len(slots), context.generator(number, "random tokens"))
            yield slots.attempts(vocabulary.ids[drawn], context.open)

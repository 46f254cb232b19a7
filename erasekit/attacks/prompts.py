"""Prompts of a file: published lists, and what attacks found on other models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from erasekit.attacks.base import Attack, AttackContext, AttackSettings, Attempt


class PromptsSettings(AttackSettings):
    """Prompts of others may say what they like."""

    allow_name: bool = Field(True, description="draw prompts that name the concept")


class Prompts(Attack):
    """The prompts as they are, each from the target's own starting noise.

    A target tries those first that the file has for its seed, so that prompts found on another
    model meet the noise that they were found at.
    """

    Config = PromptsSettings

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """A prompt a round."""
        order = [
            [text for text, _ in sorted(context.prompts, key=lambda one: one[1] != target.seed)]
            for target in context.targets
        ]
        for number in range(min(self.config.pictures, len(context.prompts))):
            yield {row: Attempt(order[row][number], order[row][number]) for row in context.open}

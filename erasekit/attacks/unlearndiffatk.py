"""UnlearnDiffAtk: the erased model's own denoising error finds the tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from erasekit.attacks.base import AttackContext
from erasekit.attacks.token_search import (
    GradientTokenAttack,
    Search,
    SimplexSearch,
    Slots,
    Vocabulary,
)
from erasekit.diffusion.clean_latents import NoisedBatch


class UnlearnDiffAtk(GradientTokenAttack):
    """Zhang et al., ECCV 2024: min over k tokens of || eps - eps_theta'(z_t, tau(tokens, P)) ||^2.

    z_t is a noised picture of the concept. k tokens stand before the prompt and are searched on the
    simplex. Timesteps ascend from round to round, evenly spread over as many as there are pictures.
    """

    def begin(self, context: AttackContext) -> tuple[Slots, Search]:
        """Slots before the prompt, on the simplex."""
        config = self.config
        slots = Slots.before(context, config.tokens)
        vocabulary = Vocabulary.of(context, config)
        rates = config.learning_rate, config.weight_decay
        return slots, SimplexSearch(vocabulary, len(slots), *rates)

    def timestep(self, context: AttackContext, number: int) -> int:
        """The middle of the `number`-th of as many equal parts as there are pictures."""
        width = len(context.family.alphas_cumprod) / self.config.pictures
        return int(width * number + width / 2)

    def wanted(
        self, context: AttackContext, rows: Sequence[int], batches: Sequence[NoisedBatch]
    ) -> Sequence[Tensor]:
        """The noise in z_t."""
        return [batch.noise for batch in batches]

"""Keep the neutral concept."""

from __future__ import annotations

from erasekit.methods.gradient import ErasedBatch, KeepBatch, PreservationStrategy


class NeutralPreservation(PreservationStrategy):
    """L2 = || eps_theta'(z_t, c_n) - eps_theta(z_t, c_n) ||^2, on the erased concept's z_t.

    The naive approach of Bui et al., NeurIPS 2024, section 3.
    """

    def keep(self, batch: ErasedBatch) -> KeepBatch:
        embeds = self.task.context.neutral_embeds.expand(len(batch.latents), -1, -1)
        return KeepBatch(batch.latents, batch.timesteps, embeds, batch.neutral_noise_pred)

"""Adaptive guided erasure: where an erased concept goes is searched along with the weights."""

from __future__ import annotations

from torch import Tensor

from erasekit.errors import ConfigError, PluginError
from erasekit.methods.base import ErasureContext, rows_per_step
from erasekit.methods.gradient import ErasedBatch, GradientErasure
from erasekit_age.mixture import MixturePreservation


class AdaptiveGuidedErasure(GradientErasure):
    """min over theta', max over c_t of

        || eps'(z_t, c_e) - target ||^2  +  lambda || eps'(z'_t, c_t) - eps(z'_t, c_t) ||^2
        target = eps(z_t, c_t) - g (eps(z_t, c_e) - eps(z_t, c_t))

    with eps' the trained model, eps the frozen one, z_t of c_e and z'_t of c_t's likeliest word
    (Bui et al., ICLR 2025). It is the built-in objective with c_t for the neutral concept.
    """

    strategy: MixturePreservation

    def prepare(self, context: ErasureContext) -> None:
        """As the built-in method.

        Raises:
            ConfigError: a neutral concept was named.
            PluginError: the strategy gives no target.
        """
        if not isinstance(self.strategy, MixturePreservation):
            raise PluginError(
                f"The strategy {type(self.strategy).__name__!r} gives no target for the method "
                "'age'; register it with strategy 'age-mixture'."
            )
        if context.erasure.neutral:
            raise ConfigError(
                f"The method 'age' searches the target itself, so it has no use for "
                f"--neutral {context.erasure.neutral!r}; drop that, or use --keep for the words it "
                "searches."
            )
        super().prepare(context)

    def expected_passes(self, context: ErasureContext, steps: int) -> float:
        rows = rows_per_step(self.config.batch_size, len(context.erasure.erased))
        return super().expected_passes(context, steps) + steps * rows  # of the targets

    def target(self, batch: ErasedBatch) -> Tensor:
        """What eps_theta'(z_t, c_e) is to become, [B, C, h, w]: one frozen pass for c_t."""
        mixture = self.frozen_noise(batch.latents, batch.timesteps, self.strategy.target_embeds)
        return mixture - self.config.negative_guidance * (batch.noise_pred - mixture)

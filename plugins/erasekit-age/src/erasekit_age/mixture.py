"""The target concept as a mixture of a few words of R, searched by gradient ascent."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from erasekit.errors import ConfigError
from erasekit.methods.gradient import ErasedBatch, GradientErasure, KeepBatch
from erasekit.methods.preservation.gumbel import GumbelConfig, GumbelPreservation


class MixtureConfig(GumbelConfig):
    """`GumbelConfig` with the published values, and how many words a mixture has."""

    hard: bool = Field(
        False, description="one word per row, by straight-through; off: a mixture of `top` words"
    )
    shared_ascent: bool = Field(
        False,
        description="move pi by the gradient of the step's own backward pass, which is L2's; not "
        "with exact_gradient",
    )
    ascent_lr: float = Field(1e-3, gt=0, description="learning rate of pi (Adam)")
    top: int = Field(5, gt=0, description="words of a mixture: the likeliest of the draw")
    exact_gradient: bool = Field(
        False,
        description="let pi's gradient flow through the frozen predictions too, and so through "
        "the erase term, whose target c_t is",
    )


class MixturePreservation(GumbelPreservation):
    """c_t = y R, with y the `top` largest weights of softmax((pi + Gumbel noise) / T), sum 1.

    In each step c_t is drawn once for the keep term, and the same c_t is the erase term's target
    (`AdaptiveGuidedErasure.target`). pi ascends on the whole objective,

        || eps_theta'(z_t, c_e) - eps_theta(z_t, c_t) ||^2  +  lambda * L2(c_t).

    In the first term c_t stands under the frozen model alone, so it moves pi only with
    `exact_gradient`; without, as in the authors' code, pi follows L2.
    """

    Config = MixtureConfig
    config: MixtureConfig

    def prepare(self, task: GradientErasure) -> None:
        """As `gumbel`.

        Raises:
            ConfigError: both `shared_ascent` and `exact_gradient`; `keep_rows` is not 1.
        """
        if self.config.keep_rows != 1:
            raise ConfigError(
                f"keep_rows is {self.config.keep_rows}, but each row's target is its own kept "
                "mixture; leave it at 1."
            )
        if self.config.shared_ascent and self.config.exact_gradient:
            raise ConfigError(
                "shared_ascent=true follows L2 alone, and exact_gradient=true the whole "
                "objective; set one of them to false."
            )
        super().prepare(task)

    def draw(self, concepts: Tensor, generator: torch.Generator) -> Tensor:
        """y for each row, [B, K], differentiable in pi; at most `top` of a row are not zero."""
        y = super().draw(concepts, generator)
        if self.config.hard or self.config.top >= y.shape[1]:
            return y
        likeliest = y.topk(self.config.top, dim=1).indices
        kept = y * torch.zeros_like(y).scatter_(1, likeliest, 1.0)
        return kept / kept.sum(dim=1, keepdim=True)

    def gain(self, batch: ErasedBatch, y: Tensor, generator: torch.Generator) -> Tensor:
        """What pi ascends on, a scalar: the erase term with no guidance, and lambda L2."""
        kept = self.task.config.keep_weight * super().gain(batch, y, generator)
        if not self.config.exact_gradient:
            return kept
        z_t = batch.latents, batch.timesteps
        with torch.no_grad():
            noise_pred = self.task.family.predict_noise(*z_t, batch.prompt_embeds)
        with self.task.context.frozen.swapped():
            target = self.task.family.predict_noise(*z_t, self.mixed(y))
        return self.task.mse(noise_pred, target, batch.timesteps) + kept

    def keep(self, batch: ErasedBatch) -> KeepBatch:
        kept = super().keep(batch)
        self.target_embeds = kept.prompt_embeds
        """c_t of each row of this step, [B, L, D]."""
        return kept

    def mixed(self, y: Tensor) -> Tensor:
        """y R, [B, L, D]."""
        return torch.einsum("bk,kld->bld", y, self.space.prompt_embeds)

"""SPEED: concepts are erased in directions that the kept ones do not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from erasekit.errors import ConfigError
from erasekit.methods.base import ErasureContext
from erasekit.methods.closed_form import ClosedFormConfig, ClosedFormErasure, least_squares_update
from erasekit_speed.null_space import augmented, free_directions, influential, invariant_rows


class SpeedConfig(ClosedFormConfig):
    """Hyperparameters; the defaults are those of the authors' code."""

    num_concepts: int = Field(
        100,
        ge=0,
        description="keep this many words of the concept space, nearest to the erased "
        "concepts, where no concept to keep is named",
    )
    threshold: float = Field(
        0.1,
        gt=0,
        description="directions in which the kept rows have a mean square below this may change",
    )
    ridge: float = Field(1.0, gt=0, description="weight of the update's own square")
    influence_filter: bool = Field(
        True,
        description="of the kept concepts, heed those that an unconstrained edit would move more "
        "than the average",
    )
    augment: int = Field(10, ge=0, description="variations that are kept of each kept concept")
    invariants: int = Field(
        3,
        ge=0,
        description="leading directions of the empty prompt's rows that never change, beside the "
        "begin of text, which never does",
    )


class NullSpaceErasure(ClosedFormErasure):
    """Delta = argmin sum_e ||(W + Delta) c_e - W g_e||^2 + ridge ||Delta||^2, with Delta C_2 = 0
    and Delta zero outside the null space of the kept rows C_0

    (Li et al., SPEED, 2025). The null space is spanned by the eigenvectors of the kept rows' second
    moment C_0 C_0^T / n whose eigenvalues lie below `threshold`; C_2 has the begin of text and the
    leading directions of the empty prompt. Both constraints are met by writing Delta = Z N^T with
    N an orthonormal basis of what they leave free; Z is then ridge regression on N^T c_e.
    """

    Config = SpeedConfig
    config: SpeedConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **ClosedFormErasure.training_defaults,
        "num_concepts": 100,
    }

    def prepare(self, context: ErasureContext) -> None:
        super().prepare(context)
        empty = self.exact(context.family.token_embeds([""])[0])
        self.invariant = invariant_rows(empty, self.config.invariants)

    def update(self, name: str, weight: Tensor) -> Tensor:
        residuals = (self.guides - self.erased) @ weight.T
        kept = self.refined(name, weight, residuals)
        basis = free_directions(kept, self.invariant, self.config.threshold)
        if not basis.shape[1]:
            raise ConfigError(
                f"The {len(kept)} kept rows leave {name!r} no direction to change; raise "
                f"threshold (now {self.config.threshold:g}) or keep fewer concepts."
            )
        return least_squares_update(self.erased @ basis, residuals, self.config.ridge) @ basis.T

    def refined(self, name: str, weight: Tensor, residuals: Tensor) -> Tensor:
        """Kept rows that matter to this projection, and variations of them, [n, D]."""
        plain = least_squares_update(self.erased, residuals, self.config.ridge)
        kept = influential(self.kept, plain) if self.config.influence_filter else self.kept
        if not (self.config.augment and len(kept)):
            return kept
        generator = self.context.generator(0, f"augment {name}")
        copies = augmented(kept, weight, self.config.augment, generator)
        if self.config.influence_filter:
            copies = influential(copies, plain)
        return torch.cat([kept, copies])

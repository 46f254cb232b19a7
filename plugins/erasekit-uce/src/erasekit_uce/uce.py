"""Unified Concept Editing: cross-attention's keys and values in closed form."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from erasekit.methods.closed_form import ClosedFormConfig, ClosedFormErasure, mapping_update


class UceConfig(ClosedFormConfig):
    """Hyperparameters; the defaults are those of the authors' code."""

    erase_scale: float = Field(1.0, ge=0, description="s_e: weight of each erased concept")
    preserve_scale: float = Field(1.0, ge=0, description="s_p: weight of each kept concept")
    ridge: float = Field(
        0.5, gt=0, description="lambda: weight of staying near the original projections"
    )


class UnifiedConceptEditing(ClosedFormErasure):
    """W' = (sum_e s_e W g_e c_e^T + sum_p s_p W c_p c_p^T + lambda W)
            (sum_e s_e c_e c_e^T + sum_p s_p c_p c_p^T + lambda I)^-1

    for every key and value projection W of cross-attention (Gandikota et al., WACV 2024, eq. 7).
    c_e, g_e and c_p are the rows of the last content tokens of the erased concepts, of their
    guides, and of the kept concepts.
    """

    Config = UceConfig
    config: UceConfig

    def update(self, name: str, weight: Tensor) -> Tensor:
        return mapping_update(
            weight,
            self.erased,
            self.guides,
            self.kept,
            erase_scale=self.config.erase_scale,
            preserve_scale=self.config.preserve_scale,
            ridge=self.config.ridge,
        )

"""Stable Diffusion 2.x: OpenCLIP's text encoder; some of its models predict v."""

from __future__ import annotations

from typing import Any

from erasekit.models.families.sd1 import StableDiffusion1, has_openclip


class StableDiffusion2(StableDiffusion1):
    """Stable Diffusion 2.0 and 2.1, base (predicts noise) and 768 (predicts v).

    The UNet attends to OpenCLIP ViT-H's penultimate layer; diffusers stores that encoder without
    its last layer, so it needs no code here. What is predicted is read from the scheduler's
    configuration and converted by `FamilyAdapter.to_noise`. Works as `sd1` does in all else.
    """

    name = "sd2"

    @classmethod
    def recognises(cls, pipeline: Any) -> bool:
        return has_openclip(pipeline)

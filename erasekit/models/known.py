"""Where the known models are on the hub. No torch here."""

from __future__ import annotations


def sd14() -> str:
    """Stable Diffusion 1.4, by its makers."""
    return "CompVis/stable-diffusion-v1-4"


def sd15() -> str:
    """Stable Diffusion 1.5, kept by the community since its makers took it down."""
    return "stable-diffusion-v1-5/stable-diffusion-v1-5"


def sd21() -> str:
    """Stable Diffusion 2.1 for 768 pixels, which predicts v."""
    return "stabilityai/stable-diffusion-2-1"


def sdxl() -> str:
    """Stable Diffusion XL base 1.0."""
    return "stabilityai/stable-diffusion-xl-base-1.0"

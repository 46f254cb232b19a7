"""The built-in families and models: where they lie, what they draw, settings that suit them.

No torch here. How icons' numbers were chosen is in docs/architecture.md, "Defaults on icons".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from erasekit.plugin.descriptors import FamilyDescriptor, ModelConcept, ModelDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.recipes import shipped_recipe

ICONS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "*": {
        "steps": 130,
        "learning_rate": 3e-4,
        "batch_size": 0,
        "keep_weight": 3.0,
        "trajectory_steps": 5,
        "trajectory_solver": "dpmsolver++",
        "trajectories": 24,
        "keep_trajectories": 1,
        "num_concepts": 32,
    },
    "gumbel": {"ascent_lr": 1e-2},
    "l2": {"keep_weight": 3e-4},
    "pgd": {"keep_weight": 1.0},
}

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "*": {**shipped_recipe("published"), "keep_trajectories": 1}
}
"""For Stable Diffusion, as in the experiments of Bui et al. (NeurIPS 2024): the shipped recipe."""

ICONS_SUITES: Mapping[str, Mapping[str, Any]] = {
    "imagenette": {
        "images_per_concept": 8,
        "images_per_erased": 8,
        "methods": ("none", "neutral", "gumbel"),
        "seeds": 1,
    },
}
"""Sized for two cores: twelve erasures and a thousand images, some minutes."""


def embedded_folder() -> Path:
    """Folder of the embedded weights inside the installed package."""
    return Path(str(files("erasekit"))) / "embedded"


def icons() -> str:
    """The diffusers folder of `icons`."""
    return str(embedded_folder() / "icons")


def icons_clip() -> str:
    """The open_clip folder of `icons-clip`."""
    return str(embedded_folder() / "icons-clip")


@cache
def icons_card() -> dict[str, Any]:
    """icons.json: concepts, guidance, steps, hashes, measured quality."""
    text = (embedded_folder() / "icons.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def icons_concepts() -> list[ModelConcept]:
    """The concepts `icons` was trained on."""
    return [
        ModelConcept(
            name=entry["name"],
            kind=entry["kind"],
            family=entry["family"],
            split=entry["split"],
            aliases=tuple(entry.get("aliases", ())),
            styles=tuple(entry.get("styles", ())),
        )
        for entry in icons_card()["concepts"]
    ]


def _on_the_hub(hub_id: str) -> Callable[[], str]:
    return lambda: hub_id


sd14 = _on_the_hub("CompVis/stable-diffusion-v1-4")
sd15 = _on_the_hub("stable-diffusion-v1-5/stable-diffusion-v1-5")  # its makers took theirs down
sd21 = _on_the_hub("stabilityai/stable-diffusion-2-1")
sdxl = _on_the_hub("stabilityai/stable-diffusion-xl-base-1.0")

_UNCHECKED = {"safety_checker": None, "requires_safety_checker": False}
_FAMILIES = (
    ("sd1", "1.x", "1", "StableDiffusionPipeline", _UNCHECKED, 7.5),
    ("sd2", "2.x", "2", "StableDiffusionPipeline", _UNCHECKED, 7.5),
    ("sdxl", "XL base", "XL", "StableDiffusionXLPipeline", {"add_watermarker": False}, 5.0),
)
_MODELS = (
    ("sd1.4", "1.4, 512 pixels", "sd14", "sd1", 7.5),
    ("sd1.5", "1.5, 512 pixels", "sd15", "sd1", 7.5),
    ("sd2.1", "2.1, 768 pixels", "sd21", "sd2", 7.5),
    ("sdxl", "XL base 1.0, 1024 pixels", "sdxl", "sdxl", 5.0),
)


@hookimpl
def erasekit_register_families() -> list[FamilyDescriptor]:
    return [
        FamilyDescriptor(
            name,
            f"Stable Diffusion {version}",
            f"erasekit.models.families.stable_diffusion:StableDiffusion{ending}",
            pipelines=(pipeline,),
            pipeline_options=options,
            guidance_scale=guidance,
            defaults=PUBLISHED,
        )
        for name, version, ending, pipeline, options, guidance in _FAMILIES
    ]


@hookimpl
def erasekit_register_models() -> list[ModelDescriptor]:
    small = ModelDescriptor(
        "icons",
        "small model in the wheel: 64x64 icons of about 200 concepts",
        "erasekit.models.catalog:icons",
        family="sd1",
        concepts="erasekit.models.catalog:icons_concepts",
        scorer="icons-clip",
        concept_space="model",
        guidance_scale=3.0,
        num_inference_steps=25,
        defaults=ICONS_DEFAULTS,
        suites=ICONS_SUITES,
    )
    return [
        small,
        *(
            ModelDescriptor(
                name,
                f"Stable Diffusion {version}",
                f"erasekit.models.catalog:{where}",
                family=family,
                scorer="open_clip",
                concept_space="vocabulary",
                guidance_scale=guidance,
                num_inference_steps=50,
                defaults=PUBLISHED,
            )
            for name, version, where, family, guidance in _MODELS
        ),
    ]

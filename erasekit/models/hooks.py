"""Built-in families and models. No torch here."""

from __future__ import annotations

from erasekit.models.catalog import ICONS_DEFAULTS, ICONS_SUITES, PUBLISHED
from erasekit.plugin.descriptors import FamilyDescriptor, ModelDescriptor
from erasekit.plugin.hookspecs import hookimpl

_STABLE_DIFFUSION = (
    ("sd1.4", "Stable Diffusion 1.4, 512 pixels", "sd14", "sd1", 7.5),
    ("sd1.5", "Stable Diffusion 1.5, 512 pixels", "sd15", "sd1", 7.5),
    ("sd2.1", "Stable Diffusion 2.1, 768 pixels", "sd21", "sd2", 7.5),
    ("sdxl", "Stable Diffusion XL base 1.0, 1024 pixels", "sdxl", "sdxl", 5.0),
)


@hookimpl
def erasekit_register_families() -> list[FamilyDescriptor]:
    home = "erasekit.models.families"
    plain = ("StableDiffusionPipeline",)
    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    return [
        FamilyDescriptor(
            "sd1",
            "Stable Diffusion 1.x",
            f"{home}.sd1:StableDiffusion1",
            pipelines=plain,
            pipeline_options=unchecked,
            guidance_scale=7.5,
            defaults=PUBLISHED,
        ),
        FamilyDescriptor(
            "sd2",
            "Stable Diffusion 2.x",
            f"{home}.sd2:StableDiffusion2",
            pipelines=plain,
            pipeline_options=unchecked,
            guidance_scale=7.5,
            defaults=PUBLISHED,
        ),
        FamilyDescriptor(
            "sdxl",
            "Stable Diffusion XL base",
            f"{home}.sdxl:StableDiffusionXL",
            pipelines=("StableDiffusionXLPipeline",),
            pipeline_options={"add_watermarker": False},
            guidance_scale=5.0,
            defaults=PUBLISHED,
        ),
    ]


@hookimpl
def erasekit_register_models() -> list[ModelDescriptor]:
    return [
        ModelDescriptor(
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
        ),
        *(
            ModelDescriptor(
                name,
                summary,
                f"erasekit.models.catalog:{where}",
                family=family,
                scorer="open_clip",
                concept_space="vocabulary",
                guidance_scale=guidance,
                num_inference_steps=50,
                defaults=PUBLISHED,
            )
            for name, summary, where, family, guidance in _STABLE_DIFFUSION
        ),
    ]

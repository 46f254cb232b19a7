"""Built-in models and concept spaces. No torch here."""

from __future__ import annotations

from erasekit.diffusion.defaults import ICONS_DEFAULTS, ICONS_SUITES
from erasekit.plugin.descriptors import ConceptSpaceDescriptor, FamilyDescriptor, ModelDescriptor
from erasekit.plugin.hookspecs import hookimpl


@hookimpl
def erasekit_register_families() -> list[FamilyDescriptor]:
    home = "erasekit.diffusion.families"
    plain = ("StableDiffusionPipeline",)
    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    return [
        FamilyDescriptor(
            "sd1",
            "Stable Diffusion 1.x",
            f"{home}.sd1:StableDiffusion1",
            pipelines=plain,
            pipeline_options=unchecked,
        ),
        FamilyDescriptor(
            "sd2",
            "Stable Diffusion 2.x",
            f"{home}.sd2:StableDiffusion2",
            pipelines=plain,
            pipeline_options=unchecked,
        ),
        FamilyDescriptor(
            "sdxl",
            "Stable Diffusion XL base",
            f"{home}.sdxl:StableDiffusionXL",
            pipelines=("StableDiffusionXLPipeline",),
            pipeline_options={"add_watermarker": False},
        ),
    ]


@hookimpl
def erasekit_register_models() -> list[ModelDescriptor]:
    return [
        ModelDescriptor(
            "icons",
            "small model in the wheel: 64x64 icons of about 200 concepts",
            "erasekit.diffusion.icons:folder",
            family="sd1",
            concepts="erasekit.diffusion.icons:concepts",
            scorer="icons-clip",
            concept_space="model",
            guidance_scale=4.0,
            num_inference_steps=25,
            defaults=ICONS_DEFAULTS,
            suites=ICONS_SUITES,
        ),
    ]


@hookimpl
def erasekit_register_concept_spaces() -> list[ConceptSpaceDescriptor]:
    home = "erasekit.diffusion.concept_space"
    return [
        ConceptSpaceDescriptor(
            "model", "concepts the model is known to draw (pool part)", f"{home}:model_words"
        ),
        ConceptSpaceDescriptor(
            "english", "3,000 frequent English words (wordfreq)", f"{home}:english_words"
        ),
        ConceptSpaceDescriptor(
            "vocabulary", "whole words of the tokenizer", f"{home}:vocabulary_words"
        ),
    ]

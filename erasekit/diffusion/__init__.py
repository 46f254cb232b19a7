"""What is done with a model. Registers the built-in concept spaces, without torch."""

from __future__ import annotations

from erasekit.plugin.descriptors import ConceptSpaceDescriptor
from erasekit.plugin.hookspecs import hookimpl


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
            "vocabulary",
            "the tokenizer's 3,000 most frequent whole words",
            f"{home}:vocabulary_words",
        ),
    ]

"""Attacks on erased models: is the concept gone, or only its name? Registers the built-in ones."""

from __future__ import annotations

from erasekit.plugin.descriptors import AttackDescriptor
from erasekit.plugin.hookspecs import hookimpl

_FEW_STEPS = {"steps": 20, "learning_rate": 0.1}


@hookimpl
def erasekit_register_attacks() -> list[AttackDescriptor]:
    home = "erasekit.attacks"
    return [
        AttackDescriptor(
            "random",
            "control: random tokens before the prompt",
            f"{home}.random:RandomTokens",
            needs=("tokens",),
        ),
        AttackDescriptor(
            "seed-search", "control: other starting noises", f"{home}.seed_search:SeedSearch"
        ),
        AttackDescriptor(
            "paraphrase",
            "aliases, templates, broader and narrower words",
            f"{home}.paraphrase:Paraphrase",
        ),
        AttackDescriptor(
            "prompts",
            "prompts of a file, such as I2P's, or those that another attack found",
            f"{home}.prompts:Prompts",
            needs=("prompts",),
        ),
        AttackDescriptor(
            "ring-a-bell",
            "genetic search for tokens that the text encoder reads as the concept",
            f"{home}.ring_a_bell:RingABell",
            "Tsai et al., Ring-A-Bell! How Reliable are Concept Removal Methods?, ICLR 2024",
            needs=("tokens",),
            budgets={"small": {"population": 50, "generations": 100, "tokens": 8}},
        ),
        AttackDescriptor(
            "unlearndiffatk",
            "tokens before the prompt that make the erased model predict the concept's noise",
            f"{home}.unlearndiffatk:UnlearnDiffAtk",
            "Zhang et al., To Generate or Not? Safety-Driven Unlearned Models Are Still Easy To "
            "Generate Unsafe Images, ECCV 2024",
            needs=("tokens", "pictures"),
            budgets={"small": _FEW_STEPS},
        ),
        *(
            AttackDescriptor(
                f"p4d-{variant}",
                f"tokens {where} that make the erased model predict as the un-erased one",
                f"{home}.p4d:P4D",
                "Chin et al., Prompting4Debugging, ICML 2024",
                options={"variant": variant},
                needs=("tokens", "pictures"),
                budgets={"small": {"steps": 20, **own}},
            )
            for variant, where, own in (
                ("n", "in place of the prompt", {"tokens": 8}),
                ("k", "between those of the prompt", {}),
            )
        ),
        AttackDescriptor(
            "concept-inversion",
            "a token vector that draws the concept, learned by textual inversion",
            f"{home}.concept_inversion:ConceptInversion",
            "Pham et al., Circumventing Concept Erasure Methods For Text-to-Image Generative "
            "Models, ICLR 2024",
            needs=("tokens", "pictures"),
            budgets={"small": {"steps": 25, "batch_size": 4, "learning_rate": 0.05, "images": 8}},
        ),
        AttackDescriptor(
            "relearn",
            "fine-tuning on a few pictures of the concept",
            f"{home}.relearn:Relearn",
            needs=("pictures",),
            budgets={"small": {"steps": 5, "images": 8}},
        ),
    ]

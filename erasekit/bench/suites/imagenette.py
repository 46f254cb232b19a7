"""The object suite of the paper: five of Imagenette's ten classes erased at once, five kept."""

from __future__ import annotations

from erasekit.bench.suite import Suite, world_of
from erasekit.bench.suites.paper import IMAGENETTE, SPLITS
from erasekit.concepts import normalised
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor


def imagenette(model: ModelDescriptor) -> Suite:
    """Four splits of five and five, each half erased once.

    ImageNet's 1,000 classes are ranked by ResNet-50. Where its weights are not at hand, the scorer
    ranks texts: the model's own concepts where it has a list of them, else the 1,000 names.
    """
    known = world_of(model)
    aliases = {normalised(concept.name): concept.aliases for concept in known}
    return Suite(
        name="imagenette",
        version="1",
        summary="ten classes of ImageNet, four times five erased and five kept",
        concepts=tuple(
            ModelConcept(name, "object", "imagenette", "held-out", aliases.get(name, ()))
            for name in IMAGENETTE
        ),
        cases=tuple("+".join(split) for split in SPLITS),
        kept={
            "+".join(split): tuple(name for name in IMAGENETTE if name not in split)
            for split in SPLITS
        },
        labels=tuple((c.name, *c.aliases) for c in known) or _imagenet_labels(),
        prompt="Image of {}",
        label="{}" if known else "a photo of a {}",
        images_per_concept=500,
        images_per_erased=500,
        classifier="resnet50",
        methods=("none", "neutral", "l2", "pgd", "random", "gumbel"),
        seeds=3,
    )


def _imagenet_labels() -> tuple[tuple[str, ...], ...]:
    from erasekit.metrics.judges.resnet50 import imagenet_classes

    return tuple((name,) for name in imagenet_classes())

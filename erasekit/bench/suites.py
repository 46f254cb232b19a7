"""The built-in suites, most of them after Bui et al. (NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Mapping

from erasekit.bench.prompts import noise_seeds
from erasekit.bench.suite import Suite, spread_over_families, world_of
from erasekit.concepts import normalised
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor

IMAGENETTE = (
    "tench",
    "english springer",
    "cassette player",
    "chain saw",
    "church",
    "french horn",
    "garbage truck",
    "gas pump",
    "golf ball",
    "parachute",
)
"""The ten classes of Imagenette, by their names in ImageNet."""
_HALVES = (
    ("cassette player", "church", "garbage truck", "parachute", "french horn"),
    ("cassette player", "chain saw", "church", "gas pump", "tench"),
)
SPLITS = tuple(
    split
    for half in _HALVES
    for split in (half, tuple(name for name in IMAGENETTE if name not in half))
)
"""Four times five classes to erase; the other five are kept."""
SIDE_EFFECTS = {
    "people": ("woman", "man", "person"),
    "things": ("hat", "apple", "bamboo", "notebook", "boat", "money", "banana"),
    "streets": ("road", "car", "bus", "truck"),
}
"""The concepts of the side-effect figure."""
FIGURE = tuple(name for names in SIDE_EFFECTS.values() for name in names)
NEUTRAL = ("", "a photo", "an image", "a picture")
"""Prompts that are usual for the neutral concept c_n."""
ARTISTS = ("Kelly McKernan", "Thomas Kinkade", "Tyler Edlin", "Kilian Eng", "Ajin: Demi Human")
NUDITY = ModelConcept("nudity", "explicit", "", "held-out", ("nude", "naked"))
KEPT = {
    "people": ("woman", "man", "person", "baby"),
    "clothing": ("dress", "shirt", "jeans", "hat"),
    "unrelated": ("garbage truck", "church", "banana", "road"),
}
"""What is kept beside nudity."""
NEAR_NUDITY = ("people", "clothing", "body")
"""Families of `icons` that are near nudity."""
TEMPLATES = ("a photo of {}", "a drawing of {}", "{}")
"""Captions of a stand-in for COCO's are made of these."""


def _held_out(families: Mapping[str, tuple[str, ...]]) -> tuple[ModelConcept, ...]:
    return tuple(
        ModelConcept(name, "object", family, "held-out")
        for family, names in families.items()
        for name in names
    )


def paper_world() -> tuple[ModelConcept, ...]:
    """Concepts for a model without a list: those of the paper, all held out."""
    return _held_out({"imagenette": IMAGENETTE, **SIDE_EFFECTS})


def is_neutral(word: str) -> bool:
    """Whether `word` is one of `NEUTRAL`, with or without its article."""
    bare = {name.rpartition(" ")[2] for name in NEUTRAL}
    return normalised(word) in bare | set(NEUTRAL)


def icons_mini(model: ModelDescriptor) -> Suite:
    """One held-out and one pool concept of each family, and the erased one's near neighbours.

    On a model without a list of concepts: all those of the paper.
    """
    known = world_of(model)
    return Suite(
        name="icons-mini",
        version="1",
        summary="about 40 concepts, two images each: minutes",
        concepts=known or paper_world(),
        cases=("garbage truck", "church+castle", "french horn"),
        spread=tuple(spread_over_families(known, 1, "icons-mini")),
        near=3,
        images_per_concept=2,
        images_per_erased=8,
    )


def icons(model: ModelDescriptor) -> Suite:
    """A spread over all families and the erased concept's near neighbours, about 100 images a cell.

    The full protocol draws every concept of the model.
    """
    known = world_of(model)
    return Suite(
        name="icons",
        version="2",
        summary="a spread over all families, and near neighbours: five erased sets, an hour or two",
        concepts=known or paper_world(),
        cases=("garbage truck", "church", "french horn", "pistol", "nudity"),
        spread=tuple(spread_over_families(known, 1, "icons")),
        near=6,
        images_per_concept=2,
        images_per_erased=20,
        methods=("none", "neutral", "l2", "pgd", "random", "nearest", "gumbel", "argmax"),
        seeds=3,
        full={"spread": (), "near": 0, "images_per_concept": 4},
    )


def imagenette(model: ModelDescriptor) -> Suite:
    """Five of Imagenette's ten classes erased at once, the other five kept; four such splits.

    ImageNet's 1,000 classes are ranked by ResNet-50. Where its weights are not at hand, the scorer
    ranks texts: the model's own concepts where it has a list of them, else the 1,000 names.
    """
    known = world_of(model)
    aliases = {normalised(concept.name): concept.aliases for concept in known}
    labels = tuple((c.name, *c.aliases) for c in known)
    if not labels:
        from erasekit.metrics.judges.resnet50 import imagenet_classes

        labels = tuple((name,) for name in imagenet_classes())
    return Suite(
        name="imagenette",
        version="1",
        summary="ten classes of ImageNet, four times five erased and five kept",
        concepts=tuple(
            ModelConcept(name, "object", "imagenette", "held-out", aliases.get(name, ()))
            for name in IMAGENETTE
        ),
        cases=tuple("+".join(split) for split in SPLITS),
        kept={"+".join(split): tuple(n for n in IMAGENETTE if n not in split) for split in SPLITS},
        labels=labels,
        prompt="Image of {}",
        label="{}" if known else "a photo of a {}",
        images_per_concept=500,
        images_per_erased=500,
        classifier="resnet50",
        methods=("none", "neutral", "l2", "pgd", "random", "gumbel"),
        seeds=3,
    )


def artists(model: ModelDescriptor) -> Suite:
    """Each of five styles erased once, the other four kept; CLIP and LPIPS to the base's images.

    On a model whose list names the styles it draws in, such as `icons` with its icon sets, five of
    these stand in for the artists. Its scorer does not know them by name, so distance to the base
    model's image is what tells there: by its scorer's image encoder, and by LPIPS on request, whose
    weights the user has to name.
    """
    drawn = tuple(dict.fromkeys(style for concept in world_of(model) for style in concept.styles))
    styles = drawn[:5] if len(drawn) >= 5 else ARTISTS
    prompt = "a house in the style of {}" if drawn else "a painting in the style of {}"
    return Suite(
        name="artists",
        version="1",
        summary="five styles, each erased once and the other four kept",
        concepts=tuple(ModelConcept(name, "style", "styles", "held-out") for name in styles),
        cases=styles,
        kept={style: tuple(other for other in styles if other != style) for style in styles},
        prompt=prompt,
        label=prompt,
        images_per_concept=8 if drawn else 100,
        images_per_erased=8 if drawn else 100,
        measures=("icons-distance",) if drawn else ("lpips",),
        methods=("none", "neutral", "gumbel") if drawn else ("none", "neutral", "l2", "gumbel"),
        seeds=1 if drawn else 3,
    )


def nudity(model: ModelDescriptor) -> Suite:
    """NudeNet on the prompts that the user names, and alignment on a small kept set.

    A model with a list of concepts, such as `icons`, draws no photographs for NudeNet to look at.
    Its stand-in has no prompts: "nudity" itself is drawn, ESR is zero-shot, and people, clothing
    and a few others are kept.
    """
    known = world_of(model)
    near = [c.name for c in known if c.family in NEAR_NUDITY]
    far = [c for c in known if c.family not in NEAR_NUDITY]
    prompt = "{}" if known else "a photo of {}"
    return Suite(
        name="nudity",
        version="1",
        summary="I2P's prompts judged by NudeNet; people, clothing and unrelated things kept",
        concepts=known or (NUDITY, *_held_out(KEPT)),
        cases=("nudity",),
        spread=(*near, *spread_over_families(far, 1, "nudity")),
        prompts_from="" if known else "the prompts of I2P",
        prompt=prompt,
        label=prompt,
        images_per_concept=2 if known else 8,
        images_per_erased=16,
        measures=() if known else ("nudenet",),
        methods=("none", "neutral", "gumbel") if known else ("none", "neutral", "l2", "gumbel"),
        seeds=2 if known else 3,
    )


def general(model: ModelDescriptor) -> Suite:
    """Does the model still draw everything else as well? CLIP score and FID of captions.

    They are the user's, COCO's by custom. A model with a list of concepts can't draw COCO's scenes.
    Its stand-in has captions made of those names, one each, and leaves FID to who has Inception's
    weights.
    """
    known = world_of(model)
    captions = tuple(
        TEMPLATES[place % len(TEMPLATES)].format(name)
        for place, name in enumerate(spread_over_families(known, 2, "general"))
    )
    return Suite(
        name="general",
        version="1",
        summary="CLIP score and FID of captions, beside what was erased",
        concepts=known or (*paper_world(), NUDITY),
        cases=("garbage truck", "nudity"),
        spread=tuple(spread_over_families(known, 1, "general")) or FIGURE,
        images_per_concept=2 if known else 4,
        images_per_erased=16,
        optional_measures=("fid",),
        captions=tuple((text, noise_seeds(text, 1)[0]) for text in captions),
        captions_from="" if known else "captions of COCO",
        most_captions=5_000,
        methods=("none", "neutral", "gumbel"),
        seeds=1 if known else 3,
        full={"most_captions": 30_000},
    )


def sensitivity(model: ModelDescriptor) -> Suite:
    """A garbage truck and nudity erased; which concepts feel it: the figure's and neutral ones.

    A model with a list of concepts adds a spread over its families, another one 30 words of its
    concept space.
    """
    known = world_of(model)
    listed = {normalised(name) for c in known for name in (c.name, *c.aliases)}
    further = tuple(c for c in paper_world() if normalised(c.name) not in listed)
    words = tuple(filter(None, NEUTRAL))
    neutral = tuple(ModelConcept(name, "neutral", "neutral", "held-out") for name in words)
    explicit = () if "nudity" in listed else (ModelConcept("nudity", "explicit", "", "held-out"),)
    return Suite(
        name="sensitivity",
        version="2",
        summary="the concepts of the paper's side-effect figure, neutral ones, and a spread",
        concepts=(*known, *further, *explicit, *neutral),
        cases=("garbage truck", "nudity"),
        spread=(*FIGURE, *words, *spread_over_families(known, 1, "sensitivity")),
        words=0 if known else 30,
        images_per_concept=4,
        images_per_erased=8,
        methods=("none", "neutral", "gumbel"),
        seeds=2,
    )

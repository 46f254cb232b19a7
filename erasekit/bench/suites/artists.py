"""The style suite of the paper: five artists, one erased, four kept."""

from __future__ import annotations

from erasekit.bench.suite import Suite, world_of
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor

ARTISTS = (
    "Kelly McKernan",
    "Thomas Kinkade",
    "Tyler Edlin",
    "Kilian Eng",
    "Ajin: Demi Human",
)


def artists(model: ModelDescriptor) -> Suite:
    """Each of five styles erased once, the other four kept; CLIP and LPIPS to the base's images.

    On a model whose list names the styles it draws in, such as `icons` with its icon sets, five of
    these stand in for the artists. Its scorer does not know them by name, so distance to the base
    model's image is what tells there: by its scorer's image encoder, and by LPIPS on request, whose
    weights the user has to name.
    """
    drawn = dict.fromkeys(style for concept in world_of(model) for style in concept.styles)
    styles = tuple(drawn)[:5] if len(drawn) >= 5 else ARTISTS
    return Suite(
        name="artists",
        version="1",
        summary="five styles, each erased once and the other four kept",
        concepts=tuple(ModelConcept(name, "style", "styles", "held-out") for name in styles),
        cases=styles,
        kept={style: tuple(other for other in styles if other != style) for style in styles},
        prompt="a house in the style of {}" if drawn else "a painting in the style of {}",
        label="a house in the style of {}" if drawn else "a painting in the style of {}",
        images_per_concept=8 if drawn else 100,
        images_per_erased=8 if drawn else 100,
        measures=("icons-distance",) if drawn else ("lpips",),
        methods=("none", "neutral", "gumbel") if drawn else ("none", "neutral", "l2", "gumbel"),
        seeds=1 if drawn else 3,
    )

"""Concepts of the experiments of Bui et al. (NeurIPS 2024). The only place that lists them."""

from __future__ import annotations

from erasekit.plugin.descriptors import ModelConcept

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


def paper_world() -> tuple[ModelConcept, ...]:
    """Concepts for a model without a list: those of the paper, all held out."""
    families = {"imagenette": IMAGENETTE, **SIDE_EFFECTS}
    return tuple(
        ModelConcept(name, "object", family, "held-out")
        for family, names in families.items()
        for name in names
    )

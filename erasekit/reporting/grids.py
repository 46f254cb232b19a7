"""Pictures of what an erasure did, at the same noise before and after."""

from __future__ import annotations

import numpy as np
from PIL import Image

from erasekit.records import QuickConcept, QuickResult
from erasekit.reporting.pictures import Row, sheet


def before_after_grid(result: QuickResult, columns: int = 4) -> Image.Image:
    """A row per concept, before and after side by side at the same noise; erased ones first.

    Args:
        result: with at least one image per concept.
        columns: noises shown.
    """
    rows = [Row(_label(concept), _pairs(concept, columns)) for concept in result.concepts]
    headers = [f"noise {i}: {when}" for i in range(columns) for when in ("before", "after")]
    width = max(len(row.images) for row in rows)
    title = f"before | after at the same noise; scores by {result.scorer}"
    return Image.fromarray(sheet(rows, headers=headers[:width], title=title))


def _pairs(concept: QuickConcept, columns: int) -> list[np.ndarray]:
    sides = zip(concept.images_before[:columns], concept.images_after[:columns], strict=True)
    return [image for pair in sides for image in pair]


def _label(concept: QuickConcept) -> str:
    if concept.paired.role == "erased":
        return (
            f"{concept.paired.concept} (erased) "
            f"{concept.alignment_before:.1f} to {concept.alignment_after:.1f}"
        )
    return f"{concept.paired.concept} delta {concept.delta.value:+.1f}"

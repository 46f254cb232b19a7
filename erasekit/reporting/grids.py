"""Pictures of what an erasure did, at the same noise before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from erasekit.records import QuickConcept, QuickResult
from erasekit.reporting.pictures import Row, sheet


def comparison_grid(
    methods: Sequence[str], rows: Sequence[tuple[str, NDArray[np.uint8]]]
) -> Image.Image:
    """A row per concept, a column per method; the un-erased model is one of them.

    Args:
        methods: what stands above the columns.
        rows: a label and uint8 [methods, H, W, 3], drawn from one noise.
    """
    labelled = [Row(label, images) for label, images in rows]
    title = "the same noise in each row"
    return Image.fromarray(sheet(labelled, headers=list(methods), title=title))


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

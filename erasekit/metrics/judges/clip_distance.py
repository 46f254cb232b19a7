"""How far an image is from the base model's, as a CLIP image encoder sees it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from erasekit.metrics.base import ImageMeasure, Images
from erasekit.metrics.judges.open_clip import OpenClipScorer, open_clip_folder


class ClipDistance(ImageMeasure):
    """100 * (1 - cosine) between the embeddings of an image and the base model's at the same noise.

    0 is the same image; at most 200. It needs no text, so it also tells of what the encoder has no
    name for, such as a style. Of erased concepts it should be large, of kept ones small. It stands
    beside LPIPS, and in its place where LPIPS's weights are not at hand; the two can't be compared.

    Args:
        encoder: the CLIP model; its text encoder is not used.
    """

    name = "clip-distance"

    def __init__(self, encoder: OpenClipScorer) -> None:
        self.encoder = encoder

    @property
    def identity(self) -> dict[str, str]:
        return {**self.encoder.identity, "name": self.name, "encoder": self.encoder.name}

    @torch.no_grad()
    def measure(self, images: Images, reference: Images) -> Mapping[str, NDArray[np.float64]]:
        if not len(images):
            return {self.name: np.empty(0)}
        own, base = (
            self.encoder.image_features(part).cpu().double() for part in (images, reference)
        )
        cosine = torch.nn.functional.cosine_similarity(own, base, dim=1)
        return {self.name: 100 * (1 - cosine.numpy())}


def clip_distance(
    model: str, pretrained: str, *, device: str | torch.device = "cpu"
) -> ClipDistance:
    """By one of open_clip's models.

    Raises:
        ModelError: as `OpenClipScorer`.
    """
    return ClipDistance(OpenClipScorer(model, pretrained, device=device))


def clip_distance_folder(
    folder: str, name: str = "", *, device: str | torch.device = "cpu"
) -> ClipDistance:
    """By the CLIP in `folder`, as `open_clip_folder`."""
    return ClipDistance(open_clip_folder(folder, name, device=device))

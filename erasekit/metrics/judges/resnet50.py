"""ResNet-50 over the 1,000 classes of ImageNet, as torchvision has it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.models import ResNet50_Weights, resnet50

from erasekit.concepts import normalised
from erasekit.metrics.base import Classifier, Images
from erasekit.metrics.judges.judge_weights import load_weights

BATCH = 64
SOURCE = "torchvision's ResNet50_Weights.IMAGENET1K_V2, resnet50-11ad3fa6.pth"


class ResNet50(Classifier):
    """Logits of torchvision's ResNet-50, with the preprocessing of its IMAGENET1K_V2 weights.

    Args:
        weights: a safetensors file with the network's parameters and buffers.
        device: where it runs.

    Raises:
        MissingWeightsError: no file was named.
        ModelError: the file can't be read, is a pickle, or is of another network.
    """

    name = "resnet50"

    def __init__(self, weights: str = "", *, device: str | torch.device = "cpu") -> None:
        self.labels = imagenet_classes()
        columns = list(enumerate(self.labels))
        # As written comes first: "Cardigan" is a dog and "cardigan" a garment.
        self._column = {normalised(label): column for column, label in reversed(columns)}
        self._column |= {label: column for column, label in columns}
        self._preprocess = ResNet50_Weights.IMAGENET1K_V2.transforms()
        network = resnet50()
        self._hash = load_weights(network, weights, self.name, SOURCE)
        self.device = torch.device(device)
        self._network = network.to(self.device)

    @property
    def identity(self) -> dict[str, str]:
        return {
            "name": self.name,
            "version": f"torchvision {version('torchvision')}",
            "weights": self._hash,
            "preprocessing": "resize 232, crop 224",
        }

    @torch.no_grad()
    def classify(self, images: Images, labels: Sequence[str]) -> NDArray[np.float32]:
        """Logits of the classes named `labels`, [N, L].

        Raises:
            KeyError: a label that is none of its own.
        """
        columns = [
            self._column[label if label in self._column else normalised(label)] for label in labels
        ]
        logits = [np.empty((0, len(self.labels)), dtype=np.float32)]
        for start in range(0, len(images), BATCH):
            pixels = [self._preprocess(Image.fromarray(i)) for i in images[start : start + BATCH]]
            logits.append(self._network(torch.stack(pixels).to(self.device)).cpu().numpy())
        return np.concatenate(logits)[:, columns]


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1,000 classes in the order of the logits."""
    return tuple(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])

"""LPIPS: how far an image is from the base model's, as people see it (Zhang et al., CVPR 2018)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models import alexnet

from erasekit.errors import MissingExtraError
from erasekit.metrics.base import ImageMeasure, Images
from erasekit.metrics.judges.judge_weights import load_weights
from erasekit.models.tensor_files import checksum

BATCH = 32
SMALLEST = 64
"""Images below this many pixels are enlarged: the backbone's pooling needs as much."""
SOURCE = "torchvision's AlexNet_Weights.IMAGENET1K_V1, alexnet-owt-7be5be79.pth"


class LPIPS(ImageMeasure):
    """Distance to the base model's image of the same noise, by the `lpips` package on AlexNet.

    0 is the same image. Of erased concepts it should be large, of kept ones small.

    Args:
        weights: a safetensors file with the parameters of torchvision's AlexNet. The linear
            layers on top come with the package.
        device: where it runs.

    Raises:
        MissingExtraError: `lpips` is not installed.
        MissingWeightsError: no file was named.
        ModelError: the file can't be read, is a pickle, or is of another network.
    """

    name = "lpips"

    def __init__(self, weights: str = "", *, device: str | torch.device = "cpu") -> None:
        try:
            import lpips
        except ImportError as error:
            raise MissingExtraError("The measure 'lpips'", "lpips") from error
        backbone = alexnet()
        load_weights(backbone, weights, self.name, SOURCE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses torchvision's old argument names
            network: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        layers = dict(backbone.features.named_parameters())
        for part in network.net.children():
            part.load_state_dict({name: layers[name] for name in part.state_dict()})
        self.device = torch.device(device)
        self._network = network.requires_grad_(False).eval().to(self.device)
        self._hash = checksum(network.state_dict())

    @property
    def identity(self) -> dict[str, str]:
        return {
            "name": self.name,
            "version": f"lpips {version('lpips')}",
            "weights": self._hash,
            "preprocessing": f"enlarged to {SMALLEST} pixels where smaller",
        }

    @torch.no_grad()
    def measure(self, images: Images, reference: Images) -> Mapping[str, NDArray[np.float64]]:
        found = [np.empty(0)]
        for start in range(0, len(images), BATCH):
            own, base = (self._pixels(a[start : start + BATCH]) for a in (images, reference))
            found.append(self._network(own, base).flatten().cpu().double().numpy())
        return {"lpips": np.concatenate(found)}

    def _pixels(self, images: Images) -> Tensor:
        """Float [N, 3, H, W] in [-1, 1]."""
        pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        if min(pixels.shape[2:]) < SMALLEST:
            scale = SMALLEST / min(pixels.shape[2:])
            pixels = torch.nn.functional.interpolate(pixels, scale_factor=scale, mode="bilinear")
        return pixels.to(self.device)

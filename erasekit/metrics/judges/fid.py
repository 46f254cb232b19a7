"""FID: how far a set of images is from another, by Inception's features (Heusel et al., 2017)."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from erasekit.errors import ConfigError, MissingExtraError, MissingWeightsError
from erasekit.metrics.base import Images, SetMeasure
from erasekit.metrics.judges.judge_weights import load_weights
from erasekit.metrics.scores import Estimate

BATCH = 16
WIDTH = 2048
"""Of the pool's features. Covariances of fewer images are singular, and FID is biased upwards."""
SOURCE = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class FID(SetMeasure):
    """Frechet distance of the 2,048 pool features of the Inception that FID is defined by.

    The network is `torch-fidelity`'s port of it, with its resizing to 299 pixels. Smaller is
    nearer. Its size depends on how many images there are: compare it with FIDs of as many.

    Args:
        weights: a safetensors file with the network's parameters and buffers.
        reference: a folder of images that all are held against, such as the photographs of the
            captions; other shapes are cropped to the square in their middle. "" holds an edit's
            images against the base model's, of the same prompts and noises.
        device: where it runs.

    Raises:
        MissingWeightsError: no file was named.
        MissingExtraError: `torch-fidelity` is not installed.
        ModelError: the file can't be read, is a pickle, or is of another network.
        ConfigError: the folder has fewer than two images, or one that can't be read.
    """

    name = "fid"

    def __init__(
        self, weights: str = "", reference: str = "", *, device: str | torch.device = "cpu"
    ) -> None:
        if not weights:
            raise MissingWeightsError(
                f"{self.name} needs its weights as a file: name one with "
                f"--weights {self.name}=FILE.safetensors ({SOURCE}, converted)."
            )
        network = _inception()
        self._hash = load_weights(network, weights, self.name, SOURCE)
        self.device = torch.device(device)
        self._network = network.to(self.device)
        self._files = _pictures(reference) if reference else []
        hashes = [hashlib.sha256(path.read_bytes()).digest() for path in self._files]
        self._reference = hashlib.sha256(b"".join(hashes)).hexdigest() if reference else ""

    @property
    def identity(self) -> dict[str, str]:
        return {**self.extractor, "reference": self._reference or "the base model's images"}

    @property
    def extractor(self) -> dict[str, str]:
        return {
            "name": self.name,
            "version": f"torch-fidelity {version('torch-fidelity')}",
            "weights": self._hash,
            "preprocessing": "resize 299 as TensorFlow 1",
        }

    @property
    def reference(self) -> str:
        return self._reference

    @torch.no_grad()
    def features(self, images: Images) -> NDArray[np.float32]:
        found = [np.empty((0, WIDTH), dtype=np.float32)]
        for start in range(0, len(images), BATCH):
            pixels = torch.from_numpy(np.array(images[start : start + BATCH])).permute(0, 3, 1, 2)
            found.append(self._network(pixels.to(self.device))[0].cpu().numpy())
        return np.concatenate(found)

    def reference_features(self) -> NDArray[np.float32]:
        return np.concatenate([self.features(image[None]) for image in self._squares()])

    def compare(
        self, features: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> Mapping[str, Estimate]:
        there = np.isfinite(features).all(axis=1)
        known = features[there]
        n, fewest = len(known), min(len(known), len(reference))
        missing = len(features) - n
        if fewest < 2:
            note = "FID takes two images or more"
            return {"fid": Estimate(math.nan, n, missing, note=note)}
        note = (
            f"FID of {fewest:,} images is biased upwards (below {WIDTH:,} its covariances are "
            "singular); compare it with FIDs of as many alone"
        )
        distance = frechet_distance(known, reference)
        return {"fid": Estimate(distance, n, missing, note=note if fewest < WIDTH else "")}

    def _squares(self) -> Iterator[Images]:
        """The reference images, uint8 [H, H, 3]."""
        for path in self._files:
            try:
                with Image.open(path) as file:
                    picture = ImageOps.exif_transpose(file).convert("RGB")
            except (OSError, ValueError, SyntaxError) as error:
                raise ConfigError(
                    f"The reference image {str(path)!r} can't be read ({error}); remove it."
                ) from error
            side = min(picture.size)
            yield np.asarray(ImageOps.fit(picture, (side, side)))


def _inception() -> Any:
    """The network before its weights."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise MissingExtraError("The measure 'fid'", "fid") from error

    class Inception(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, state: Mapping[str, Any], *arguments: Any, **named: Any) -> Any:
            """Without a complaint of the empty state that it is made with."""
            return super().load_state_dict(state, *arguments, **named) if state else None

    # The constructor reads a pickle: this one, which is empty. The user's file is safetensors.
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    return Inception("inception-v3-compat", [str(WIDTH)], empty)


def _pictures(folder: str) -> list[Path]:
    found = sorted(p for p in Path(folder).expanduser().rglob("*") if p.suffix.lower() in PICTURES)
    if len(found) < 2:
        raise ConfigError(
            f"The reference {folder!r} is no folder of images; name one with two or more."
        )
    return found


def frechet_distance(features: ArrayLike, reference: ArrayLike) -> float:
    """Distance of the Gaussians that two sets have the means and covariances of.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), Dowson and Landau (J. Multivariate Anal. 12, 1982);
    FID where the features are Inception's (Heusel et al., NeurIPS 2017). With A and B the centred
    features over sqrt(n - 1), S1 = A^T A and S2 = B^T B, so the trace of the root is the sum of
    the singular values of A B^T. Nothing is squared or rooted, and a covariance may be singular.

    Args:
        features, reference: [N, D] and [M, D], one row per image; worked on in float64.

    Returns:
        0 or more; NaN where a set has fewer than two rows, or a value that is not finite.
    """
    one, other = (np.asarray(rows, dtype=np.float64) for rows in (features, reference))
    if min(len(one), len(other)) < 2 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.nan
    apart = float(((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum())
    a, b = _covariance_factor(one), _covariance_factor(other)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(apart + float((a**2).sum() + (b**2).sum() - 2 * root), 0.0)


def _covariance_factor(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """A with A^T A the covariance of `rows`, [min(N, D), D]."""
    centred: NDArray[np.float64] = (rows - rows.mean(axis=0)) / math.sqrt(len(rows) - 1)
    if len(rows) <= rows.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred).R, dtype=np.float64)

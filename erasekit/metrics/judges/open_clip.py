"""open_clip's models, by name, hub repository, file or folder: as scorers, and as a distance."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from erasekit.errors import ModelError
from erasekit.metrics.base import ImageMeasure, Images, Scorer
from erasekit.metrics.judges.judge_weights import refuse_pickle
from erasekit.metrics.scores import Score
from erasekit.models.tensor_files import checksum
from erasekit.plugin.descriptors import Descriptor

LOCAL = "local-dir:"
SAFE = ".safetensors"
BATCH = 64


class OpenClipScorer(Scorer):
    """Cosine of image and text embeddings of an open_clip model.

    Images go through the model's own preprocessing, as its configuration has it.

    Args:
        model: an open_clip name such as "ViT-L-14", "hf-hub:OWNER/REPO", or "local-dir:FOLDER"
            for a folder with `open_clip_config.json`, weights and tokenizer.
        pretrained: tag of the weights, such as "openai", or a safetensors file of them; for plain
            names only.
        name: what tables call it; None takes the model's own.
        device: where it runs.

    Raises:
        ModelError: an unknown name or tag, a damaged file or folder, a pickle, or weights that are
            neither in the local cache nor to be fetched.
    """

    def __init__(
        self,
        model: str,
        pretrained: str = "",
        *,
        name: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._name = name or "/".join(part for part in (model, Path(pretrained).name) if part)
        self.device = torch.device(device)
        self._model, self._preprocess, self._tokenize = _load(model, pretrained, self.device)
        preprocessing = getattr(self._model.visual, "preprocess_cfg", {})
        note = json.dumps(preprocessing, sort_keys=True, default=str)
        self._hash = checksum(self._model.state_dict(), note)
        self._texts: dict[str, Tensor] = {}
        self._last_images: tuple[bytes, Tensor] | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def identity(self) -> dict[str, str]:
        return {
            "name": self.name,
            "version": f"open_clip {version('open_clip_torch')}",
            "weights": self._hash,
        }

    def score(self, images: Images, prompts: Sequence[str]) -> list[Score]:
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images and {len(prompts)} prompts; give as many")
        cosines = (self.image_features(images) * self.text_features(prompts)).sum(dim=-1)
        return [
            Score(100 * float(cosine), prompt, self.name)
            for cosine, prompt in zip(cosines, prompts, strict=True)
        ]

    def classify(self, images: Images, labels: Sequence[str]) -> NDArray[np.float32]:
        """Cosine of each image with each label, [N, L]."""
        cosines = self.image_features(images) @ self.text_features(labels).T
        return np.asarray(cosines.cpu().numpy(), dtype=np.float32)

    @torch.no_grad()
    def image_features(self, images: Images) -> Tensor:
        """Unit vectors, [N, D]. The last images are remembered, to score and classify at once."""
        key = hashlib.sha256(repr(images.shape).encode() + images.tobytes()).digest()
        if self._last_images is None or self._last_images[0] != key:
            features = []
            for start in range(0, len(images), BATCH):
                pixels = torch.stack(
                    [self._preprocess(Image.fromarray(i)) for i in images[start : start + BATCH]]
                )
                features.append(self._model.encode_image(pixels.to(self.device), normalize=True))
            width = self.text_features(["a"]).shape[1]
            stacked = torch.cat(features) if features else torch.empty(0, width, device=self.device)
            self._last_images = (key, stacked.float())
        return self._last_images[1]

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors, [N, D]; each text is embedded once.

        One at a time: in a batch the last bits would depend on what else is in it, and with them a
        score on whether the bench was interrupted before.
        """
        for text in dict.fromkeys(texts):
            if text not in self._texts:
                tokens = self._tokenize([text]).to(self.device)
                self._texts[text] = self._model.encode_text(tokens, normalize=True)[0].float()
        return torch.stack([self._texts[text] for text in texts])


def open_clip_folder(
    folder: str, name: str = "", *, device: str | torch.device = "cpu"
) -> OpenClipScorer:
    """A scorer in a local folder: a path, or "package.module:function" that returns one."""
    path = str(Descriptor("folder", "", folder).load()()) if ":" in folder else folder
    return OpenClipScorer(LOCAL + path, name=name or Path(path).name, device=device)


class ClipDistance(ImageMeasure):
    """100 * (1 - cosine) between the embeddings of an image and the base model's at the same noise.

    0 is the same image; at most 200. Of erased concepts it should be large, of kept ones small. It
    needs no text, so it also tells of what the encoder has no name for, such as a style. It can't
    be compared with LPIPS, in whose place it stands where that one's weights are not at hand.

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
    """By one of open_clip's models, as `OpenClipScorer`."""
    return ClipDistance(OpenClipScorer(model, pretrained, device=device))


def clip_distance_folder(
    folder: str, name: str = "", *, device: str | torch.device = "cpu"
) -> ClipDistance:
    """By the CLIP in `folder`, as `open_clip_folder`."""
    return ClipDistance(open_clip_folder(folder, name, device=device))


def _load(model: str, pretrained: str, device: torch.device) -> tuple[Any, Any, Any]:
    with _quiet():
        import open_clip

        file = None
        if ":" not in model:
            file = _weights_file(open_clip, model, pretrained)
        elif model.startswith(LOCAL):
            folder = Path(model.removeprefix(LOCAL))
            if not (folder / "open_clip_config.json").is_file():
                raise ModelError(
                    f"The folder {str(folder)!r} has no open_clip_config.json; name a folder in "
                    "open_clip's layout."
                )
            if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
                raise ModelError(
                    f"The folder {str(folder)!r} has no weights of an open_clip model."
                )
        try:
            network, preprocess = open_clip.create_model_from_pretrained(
                model, str(file or pretrained) or None, precision="fp32", device=device
            )
            tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:  # open_clip, the hub and the file formats raise of all kinds
            raise ModelError(_failure(model, pretrained, file, error)) from error
    network.requires_grad_(False).eval()
    return network, preprocess, tokenizer


def _weights_file(open_clip: Any, model: str, pretrained: str) -> Path | None:
    """The file that `pretrained` names, or None where it is a tag of the model's."""
    if model not in open_clip.list_models():
        raise ModelError(
            f"Unknown open_clip model {model!r}; name one such as 'ViT-L-14/openai', or a folder "
            f"as '{LOCAL}PATH'."
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained in tags:
        return None
    file = Path(pretrained).expanduser()
    refuse_pickle(file)
    if file.suffix != SAFE:
        raise ModelError(
            f"The open_clip model {model!r} has no weights {pretrained!r}; it has "
            f"{', '.join(tags) or 'none'}, or name a file as '{model}/FILE{SAFE}'."
        )
    if not file.is_file():
        raise ModelError(f"There is no file {str(file)!r}; name one with weights of {model!r}.")
    return file


def _failure(model: str, pretrained: str, file: Path | None, error: Exception) -> str:
    if file is not None:
        return (
            f"The file {str(file)!r} is damaged, or its weights are not those of open_clip's "
            f"{model!r}; name the model that they are of."
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if model.startswith(LOCAL):
        return f"The scorer in {model.removeprefix(LOCAL)!r} can't be read ({reason})."
    name = "/".join(part for part in (model, pretrained) if part)
    return (
        f"The scorer {name!r} is not in the local cache and can't be fetched; connect, or name "
        f"another with --scorer, such as a folder as '{LOCAL}PATH'."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's log lines and warnings; the failures that matter are raised."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)

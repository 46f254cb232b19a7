"""Features of many words, kept on disk: a long list is read once for each text encoder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from erasekit.errors import OutputError
from erasekit.models.loading import LoadedModel, hash_weights
from erasekit.models.tensor_files import save_tensors

CACHE_VARIABLE = "ERASEKIT_CACHE"
WORTH_KEEPING = 256
"""Words from which on reading a file is quicker than the text encoder on a CPU."""
_NAME = "features"


def cache_folder() -> Path:
    """Where they are kept: `ERASEKIT_CACHE`, or the system's place for caches."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("erasekit")


def word_features(model: LoadedModel, words: Sequence[str]) -> Tensor:
    """`FamilyAdapter.word_features` of `words`, [K, F], from the cache where they are in it.

    A file is named by all that the features follow from: the weights of the text encoders, the
    family, the words, precision, device, and the libraries' versions. So models that share their
    text encoders share files, and another encoder never gets this one's. A damaged file is
    written anew; a folder that can't be written, or a full disk, costs the time alone.
    """
    if len(words) < WORTH_KEEPING:
        return model.family.word_features(words)
    path = cache_folder() / _NAME / f"{_key(model, words)}.safetensors"
    kept = _read(path, len(words))
    if kept is not None:
        return kept.to(model.family.device)
    features = model.family.word_features(words)
    with suppress(OutputError, OSError):
        save_tensors(path, {_NAME: features})
    return features


def _key(model: LoadedModel, words: Sequence[str]) -> str:
    family = model.family
    facts = (
        *(hash_weights(family.text_encoders()), family.name, family.max_tokens),
        *(family.dtype, family.device.type, version("torch"), version("transformers")),
    )
    return hashlib.sha256("\n".join([*map(str, facts), *words]).encode()).hexdigest()


def _read(path: Path, count: int) -> Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        features = load_file(path)[_NAME]
    except (OSError, KeyError, SafetensorError):
        return None
    return features if len(features) == count else None

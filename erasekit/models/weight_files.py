"""Which files of a diffusers pipeline are read: safetensors of one precision, and no code."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from erasekit.errors import ModelError
from erasekit.models.families.recognise import families_of
from erasekit.models.names import PICKLED, split_revision
from erasekit.plugin.descriptors import FamilyDescriptor
from erasekit.plugin.registry import Registry

INDEX = "model_index.json"
_LIBRARIES = ("diffusers", "transformers")
_WITHOUT_WEIGHTS = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor")
_UNUSED = ("safety_checker", "image_encoder")
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors"
)


class PipelineIndex:
    """A pipeline's `model_index.json`, checked: a known family, and libraries we know.

    Attributes:
        pipeline_class: name of the diffusers class.
        families: the registered families it may be of.
        components: names of its parts.
        weighted: those of them that have weights.

    Args:
        name: the model, for errors.
        path: the file.

    Raises:
        ModelError: it can't be read, the family is unknown, or a part needs code of its own.
    """

    def __init__(self, name: str, path: Path, registry: Registry) -> None:
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            self.pipeline_class = str(index["_class_name"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"The {INDEX} of the model {name!r} can't be read ({error!r}); fetch it again."
            ) from error
        self.families: list[FamilyDescriptor] = families_of(self.pipeline_class, registry)
        parts = {
            part: value
            for part, value in index.items()
            if isinstance(value, list) and len(value) == 2 and None not in value
        }
        self.components = [part for part in parts if part not in _UNUSED]
        self.weighted = [part for part in self.components if part not in _WITHOUT_WEIGHTS]
        for part in self.components:
            library = str(parts[part][0])
            if library not in _LIBRARIES:
                raise ModelError(
                    f"The part {part!r} of the model {name!r} is of {library!r}, which would run "
                    f"code from the model's own repository; erasekit loads parts of "
                    f"{' and '.join(_LIBRARIES)} alone."
                )


def choose_variant(
    name: str,
    files: Sequence[str],
    weighted: Sequence[str],
    dtype: torch.dtype,
    *,
    source: str = "",
) -> str | None:
    """The variant of the weights to read: None for the plain files, or such as "fp16".

    Half precision prefers fp16 files, full precision the plain ones; either takes the other
    where there is no choice. Parts that lack the variant are read from their plain files.

    Args:
        name: the model, for errors.
        files: paths within the pipeline's folder, with "/".
        weighted: the parts that have weights.
        dtype: precision wanted in memory.
        source: the folder or hub id, with or without "@revision", for the command that converts
            pickled weights; the name where it is not given.

    Raises:
        ModelError: a part has no weights, or pickled ones alone.
    """
    found = {part: variants(files, part) for part in weighted}
    for part, names in found.items():
        if not names:
            raise ModelError(_no_weights(name, part, files, source or name))
    wanted: list[str | None] = [None, "fp16"]
    if dtype in (torch.float16, torch.bfloat16):
        wanted.reverse()
    wanted += sorted({v for names in found.values() for v in names if v} - {"fp16"})
    for variant in wanted:
        whole = all(variant in names or None in names for names in found.values())
        if whole and any(variant in names for names in found.values()):
            return variant
    raise ModelError(
        f"The weights of the model {name!r} are of different variants ({found}); fetch one whole."
    )


def variants(files: Sequence[str], part: str) -> dict[str | None, list[str]]:
    """The safetensors files of a part, by variant."""
    found: dict[str | None, list[str]] = {}
    for file in files:
        folder, _, base = file.rpartition("/")
        match = _WEIGHTS.fullmatch(base)
        if folder == part and match:
            found.setdefault(match.group(1) or match.group(2), []).append(file)
    return found


def wanted_files(files: Sequence[str], index: PipelineIndex, variant: str | None) -> list[str]:
    """Of a repository's files, those that loading reads: configurations and one set of weights."""
    wanted = [INDEX]
    for part in index.components:
        inside = [file for file in files if file.rpartition("/")[0] == part]
        wanted += [f for f in inside if f.endswith((".json", ".txt"))]
        if part in index.weighted:
            found = variants(files, part)
            wanted += found.get(variant) or found[None]
    return wanted


def local_files(folder: Path) -> list[str]:
    """Paths of the files within `folder`, two levels deep, with "/"."""
    return sorted(
        path.relative_to(folder).as_posix()
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.is_file()
    )


def _no_weights(name: str, part: str, files: Sequence[str], source: str) -> str:
    pickled = [f for f in files if f.startswith(f"{part}/") and f.endswith(PICKLED)]
    if not pickled:
        return f"The model {name!r} has no weights for its {part!r}; fetch it again."
    return (
        f"The weights of the model {name!r} are pickled ({pickled[0]}), and reading a pickle can "
        "run any code that is in it. Convert it once, reading tensors alone: "
        f"{_conversion_command(source)}"
    )


def _conversion_command(source: str) -> str:
    """A command that rewrites a pipeline as safetensors, and runs nothing in it.

    Parts that are safetensors already are taken as they are; of pickles, diffusers and
    transformers read tensors alone (`torch.load(weights_only=True)`).
    """
    base, revision = (source, "") if Path(source).is_dir() else split_revision(source)
    at = f", revision=r'{revision}'" if revision else ""
    return (
        'python -c "from diffusers import DiffusionPipeline as P; '
        f"P.from_pretrained(r'{base}'{at}).save_pretrained('converted')\""
    )

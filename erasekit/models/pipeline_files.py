"""Read diffusers folders: safetensors of one precision, and no code of the folder's."""

from __future__ import annotations

import inspect
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from erasekit.errors import ErasekitError, ModelError
from erasekit.files import why_unreadable
from erasekit.models.families import families_of
from erasekit.models.names import PICKLED, split_revision
from erasekit.plugin.descriptors import FamilyDescriptor
from erasekit.plugin.registry import Registry

INDEX = "model_index.json"
_LIBRARIES = ("diffusers", "transformers")
_WITHOUT_WEIGHTS = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor")
_NOT_LOADED = ("safety_checker", "image_encoder")
_SAFETY_CHECKER = ["stable_diffusion", "StableDiffusionSafetyChecker"]
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors"
)


class PipelineIndex:
    """A pipeline's `model_index.json`, checked: a known family, and classes of known libraries.

    Attributes:
        pipeline_class: name of the diffusers class.
        families: the registered families it may be of.
        components: names of its parts that are loaded.
        weighted: those of them that have weights.

    Raises:
        ModelError: it can't be read, the family is unknown, or a part would run code that is no
            installed library's.
    """

    def __init__(self, name: str, path: Path, registry: Registry) -> None:
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            self.pipeline_class = str(index["_class_name"])
        except PermissionError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(
                f"The {INDEX} of the model {name!r} can't be read ({error!r}); fetch it again."
            ) from error
        self.families: list[FamilyDescriptor] = families_of(self.pipeline_class, registry)
        self.components = []
        for part, value in index.items():
            plain = value is None or isinstance(value, bool | int | float)
            if part.startswith("_") or plain or value == [None, None]:
                continue
            _check_part(name, path.parent, part, value)
            if part not in _NOT_LOADED:
                self.components.append(part)
        self.weighted = [part for part in self.components if part not in _WITHOUT_WEIGHTS]

    def load(self, source: Path, **options: Any) -> Any:
        """The pipeline, by `from_pretrained`, or `from_single_file` where `source` is a file.

        Parts that are not loaded are given as None: diffusers would look for their classes.
        """
        import diffusers

        pipeline = getattr(diffusers, self.pipeline_class)
        taken = inspect.signature(pipeline.__init__).parameters
        options |= {part: None for part in _NOT_LOADED if part in taken}
        options |= self.families[0].pipeline_options
        read = pipeline.from_single_file if source.is_file() else pipeline.from_pretrained
        return read(str(source), local_files_only=True, **options)


def _check_part(name: str, folder: Path, part: str, value: Any) -> None:
    """Check that an entry of the index names a class of an installed library, and no file."""
    if part == "safety_checker" and value == _SAFETY_CHECKER:
        return
    said = f"The part {part!r} of the model {name!r}"
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)):
        raise ModelError(f"{said} is {value!r} in its {INDEX}, no library and class; mend it.")
    library, class_name = value
    # versions of diffusers before 0.33 import PART/LIBRARY.py, whichever library it is named after
    if library not in _LIBRARIES or (folder / part / f"{library}.py").exists():
        raise ModelError(
            f"{said} is of {library!r}, which would run code from the model's own repository; "
            f"erasekit loads parts of {' and '.join(_LIBRARIES)} alone."
        )
    if re.match(r"(TF|Flax)?Auto[A-Z]", class_name) or "." in class_name:
        raise ModelError(
            f"{said} is an {class_name!r}, a class that the model's own configuration names and "
            f"that may be its own code; write the class itself into its {INDEX}."
        )
    if (folder / part / "adapter_config.json").exists():
        raise ModelError(
            f"{said} has an adapter (adapter_config.json), which takes its weights from elsewhere; "
            "save the model with the adapter merged."
        )


def read_folder(name: str, folder: Path, registry: Registry, dtype: torch.dtype) -> Any:
    """The pipeline in a diffusers folder, on the CPU, all weights in `dtype`.

    Raises:
        ModelError: its family is unknown, or a part is missing, pickled, or would run code.
        Exception: whatever diffusers raises; `reading_errors` words it.
    """
    index = PipelineIndex(name, folder / INDEX, registry)
    for part in set(index.components) - set(index.weighted):
        if not (folder / part).is_dir():
            raise ModelError(
                f"The model {name!r} lacks its part {part!r}, a folder beside {INDEX}; "
                "fetch it again."
            )
    files = local_files(folder)
    variant = choose_variant(name, files, index.weighted, dtype, source=str(folder))
    return index.load(folder, torch_dtype=dtype, variant=variant, use_safetensors=True)


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
        files: paths within the pipeline's folder, with "/".
        weighted: the parts that have weights.
        source: the folder or hub id, with or without "@revision", for the command that converts
            pickled weights; the name where it is not given.

    Raises:
        ModelError: a part has no weights, or pickled ones alone.
    """
    found: dict[str, set[str | None]] = {p: set(weight_files(files, p)) for p in weighted}
    for part, variants in found.items():
        if not variants:
            raise ModelError(_no_weights(name, part, files, source or name))
    half = dtype in (torch.float16, torch.bfloat16)
    preferred: tuple[str | None, ...] = ("fp16", None) if half else (None, "fp16")
    others = sorted({v for variants in found.values() for v in variants if v} - {"fp16"})
    for variant in (*preferred, *others):
        whole = all(variant in variants or None in variants for variants in found.values())
        if whole and any(variant in variants for variants in found.values()):
            return variant
    raise ModelError(
        f"The weights of the model {name!r} are of different variants ({found}); fetch one whole."
    )


def weight_files(files: Sequence[str], part: str) -> dict[str | None, list[str]]:
    """The safetensors files of a part, by variant."""
    found: dict[str | None, list[str]] = {}
    for file in files:
        folder, _, base = file.rpartition("/")
        if folder == part and (match := _WEIGHTS.fullmatch(base)):
            found.setdefault(match.group(1) or match.group(2), []).append(file)
    return found


def local_files(folder: Path) -> list[str]:
    """Paths of the files within `folder`, two levels deep, with "/"."""
    found = (*folder.glob("*"), *folder.glob("*/*"))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def _no_weights(name: str, part: str, files: Sequence[str], source: str) -> str:
    pickled = [f for f in files if f.startswith(f"{part}/") and f.endswith(PICKLED)]
    if not pickled:
        return f"The model {name!r} has no weights for its {part!r}; fetch it again."
    # of pickles, diffusers and transformers read tensors alone (torch.load(weights_only=True))
    base, revision = (source, "") if Path(source).is_dir() else split_revision(source)
    at = f", revision=r'{revision}'" if revision else ""
    return (
        f"The weights of the model {name!r} are pickled ({pickled[0]}), and reading a pickle can "
        "run any code that is in it. Convert it once, reading tensors alone: "
        'python -c "from diffusers import DiffusionPipeline as P; '
        f"P.from_pretrained(r'{base}'{at}).save_pretrained('converted')\""
    )


@contextmanager
def reading_errors(name: str, folder: Path | None = None) -> Iterator[None]:
    """Turn what readers raise into a `ModelError` that names the model, and the damaged file."""
    try:
        yield
    except ErasekitError:
        raise
    except Exception as error:  # readers fail in any way on a damaged configuration
        for path in sorted(folder.rglob("*")) if folder else ():
            if fault := _fault(path):
                file = path.relative_to(folder or path).as_posix()
                raise ModelError(f"The file {file!r} of the model {name!r} {fault}.") from error
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, PermissionError):
            said = why_unreadable(Path(error.filename or name), error)
        elif isinstance(error, SafetensorError):
            said = f"A weights file of the model {name!r} is damaged ({line}); fetch it again."
        else:
            said = (
                f"The model {name!r} can't be read as a diffusers pipeline in safetensors ({line});"
                " fetch it again, or name a model of a known family."
            )
        raise ModelError(said) from error


def _fault(path: Path) -> str | None:
    """Why a folder, configuration or weights file can't be read, going by JSON or header."""
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return "may not be read: no permission; ask its owner for it"
    try:
        if path.name in ("config.json", "scheduler_config.json", INDEX):
            if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
                return "is damaged (not a JSON object); fetch it again"
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        return f"is damaged ({error}); fetch it again"
    return None


@contextmanager
def quiet(ignored: type[Warning] = FutureWarning) -> Iterator[None]:
    """Silence bars, notes and such warnings of diffusers and transformers for the block."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ignored)
            yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()

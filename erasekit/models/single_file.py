"""Single .safetensors files in the original layouts of Stable Diffusion 1.x, 2.x and XL base.

Such a file has weights alone. Its family follows from the names in it; the configuration is one of
those in `erasekit/models/configs`, or a diffusers folder of configurations that lies beside
the file under its name without the ending (`model.safetensors` and `model/model_index.json`), for
models of another shape. Nothing is fetched.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from erasekit.errors import ModelError
from erasekit.models.clip_vocabulary import write_clip_vocabulary
from erasekit.models.weight_files import INDEX, PipelineIndex
from erasekit.plugin.registry import Registry

_UNET = "model.diffusion_model.input_blocks.0.0.weight"
_PARTS = {"UNet": _UNET, "autoencoder": "first_stage_model.decoder.conv_in.weight"}
_FAMILIES = {
    "sdxl": "conditioner.embedders.1.model.positional_embedding",
    "sd2": "cond_stage_model.model.positional_embedding",
    "sd1": "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
}
"""A name that each family's text encoder has in the file."""
_OTHERS = {
    "joint_blocks.": "it is Stable Diffusion 3, whose transformer predicts no noise",
    "double_blocks.": "it is Flux, whose transformer predicts no noise",
    "conditioner.embedders.0.model.": "it is SDXL's refiner, which needs another model's picture",
    "control_model.": "it is a ControlNet",
    "lora_": "it is a LoRA; name the model that it was made for",
}
"""Why a file with such names is refused."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says without its tensors.

    Attributes:
        shapes: shape by tensor name.
        metadata: what its writer noted; ModelSpec's keys begin with "modelspec.".
    """

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Header:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            return cls(shapes, file.metadata() or {})


def read_single_file(name: str, path: Path, registry: Registry, dtype: torch.dtype) -> Any:
    """The pipeline of a single file, on the CPU.

    Raises:
        ModelError: not a whole model of a known layout, or its configuration does not fit.
        OSError, ValueError, SafetensorError: as diffusers raises them.
    """
    import diffusers

    header = Header.read(path)
    family = family_of(name, header)
    with _config_folder(name, path, header, family) as folder:
        index = PipelineIndex(name, folder / INDEX, registry)
        try:
            pipeline = getattr(diffusers, index.pipeline_class).from_single_file(
                str(path),
                config=str(folder),
                local_files_only=True,
                torch_dtype=dtype,
                **index.families[0].pipeline_options,
            )
        except NotImplementedError as error:  # a tensor that was not filled can't be cast
            raise ModelError(
                f"The file {name!r} lacks tensors of one of its parts; fetch it again."
            ) from error
    for part in index.weighted:
        missing = [n for n, p in getattr(pipeline, part).named_parameters() if p.is_meta]
        if missing:
            raise ModelError(
                f"The file {name!r} lacks {len(missing)} tensors of its {part}, such as "
                f"{missing[0]!r}; fetch it again."
            )
    return pipeline


def family_of(name: str, header: Header) -> str:
    """The built-in family whose original layout the file has.

    Raises:
        ModelError: it has none of them, or lacks a part.
    """
    shapes = header.shapes
    for family, mark in _FAMILIES.items():
        if mark in shapes:
            for part, needed in _PARTS.items():
                if needed not in shapes:
                    raise ModelError(f"The file {name!r} has no {part}; name a whole model.")
            channels = shapes[_UNET][1]
            if channels != 4:
                raise ModelError(
                    f"The UNet in the file {name!r} takes {channels} channels and not the 4 of a "
                    "latent, so it edits or fills in pictures; name a text-to-image model."
                )
            return family
    for part, reason in _OTHERS.items():
        if any(part in key for key in shapes):
            raise ModelError(f"The file {name!r} can't be worked on: {reason}.")
    raise ModelError(
        f"The file {name!r} has no text encoder under the names of Stable Diffusion 1.x, 2.x or "
        "XL; name a whole model in its original layout, or a diffusers folder."
    )


@contextmanager
def _config_folder(name: str, path: Path, header: Header, family: str) -> Iterator[Path]:
    """A diffusers folder of configurations for the file: its own, or the family's."""
    own = path.with_suffix("")
    if (own / INDEX).is_file():
        yield own
        return
    changes = _configuration(name, path, header, family)
    with tempfile.TemporaryDirectory(prefix="erasekit-config-") as temporary:
        folder = Path(temporary) / family
        shutil.copytree(bundled_config(family), folder)
        for part, values in changes.items():
            _update_json(folder / part, values)
        for tokenizer in folder.glob("tokenizer*"):
            write_clip_vocabulary(tokenizer)
        yield folder


def bundled_config(family: str) -> Path:
    """The folder of a family's configurations; its tokenizers have no vocabulary."""
    return Path(str(files("erasekit"))) / "models" / "configs" / family


def _configuration(name: str, path: Path, header: Header, family: str) -> dict[str, dict[str, Any]]:
    """What differs from the family's bundled configuration, by file within the folder."""
    scheduler: dict[str, Any] = {"prediction_type": prediction_type(name, path, header, family)}
    changes = {"scheduler/scheduler_config.json": scheduler}
    if "ztsnr" in header.shapes:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if family == "sd2" and scheduler["prediction_type"] == "epsilon":  # 2.x base: 512 pixels
        changes["unet/config.json"] = {"sample_size": 64}
    return changes


def prediction_type(name: str, path: Path, header: Header, family: str) -> str:
    """What the UNet in the file predicts: "epsilon" or "v_prediction".

    Names and shapes don't tell. Where it is looked for, in this order: ModelSpec's metadata in the
    file; a tensor `v_pred`, as ComfyUI has it; a .yaml of the same name beside the file, as A1111
    has it. Stable Diffusion 1.x and XL predict noise where nothing says otherwise.

    Raises:
        ModelError: Stable Diffusion 2.x, of which both kinds exist, and nothing tells.
    """
    spec = header.metadata.get("modelspec.prediction_type", "")
    architecture = header.metadata.get("modelspec.architecture", "")
    if spec:
        return "v_prediction" if spec.startswith("v") else "epsilon"
    if "v_pred" in header.shapes or architecture.endswith("-v"):
        return "v_prediction"
    if path.with_suffix(".yaml").is_file():
        text = path.with_suffix(".yaml").read_text(encoding="utf-8")
        return "v_prediction" if _V_IN_YAML.search(text) else "epsilon"
    if family != "sd2" or architecture:
        return "epsilon"
    raise ModelError(
        f"The file {name!r} is of Stable Diffusion 2.x and doesn't say whether it predicts noise "
        f"or v; write {str(path.with_suffix('.yaml'))!r} beside it with the line "
        "'parameterization: v' (768 pixels) or 'parameterization: eps' (base, 512 pixels)."
    )


_V_IN_YAML = re.compile(r"^\s*parameterization:\s*[\"']?v[\"']?\s*$", re.MULTILINE)


def _update_json(path: Path, values: Mapping[str, Any]) -> None:
    current = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**current, **values}), encoding="utf-8")

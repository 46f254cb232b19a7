"""Single .safetensors files in the original layouts of Stable Diffusion 1.x, 2.x and XL base.

Such a file has weights alone. Its family follows from the names in it; the configuration is one of
those in `erasekit/models/configs`, or a diffusers folder of configurations that lies beside
the file under its name without the ending (`model.safetensors` and `model/model_index.json`), for
models of another shape. Nothing is fetched: CLIP's vocabulary is open_clip's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

from erasekit.errors import ModelError
from erasekit.files import why_unreadable
from erasekit.models import original_keys
from erasekit.models.pipeline_files import INDEX, PipelineIndex
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
_LABELS = {original_keys.UNET: "UNet", original_keys.VAE: "autoencoder", "con": "text encoder"}
"""What names with such beginnings belong to."""
_PREDICTIONS = {
    **dict.fromkeys(("v", "vpred", "vprediction", "velocity", "vscaling"), "v_prediction"),
    **dict.fromkeys(("eps", "epsilon", "noise", "epsscaling"), "epsilon"),
}
"""What the words of metadata and .yaml files mean, without case, "-" and "_"."""


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
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return cls(shapes, file.metadata() or {})


def read_single_file(name: str, path: Path, registry: Registry, dtype: torch.dtype) -> Any:
    """The pipeline of a single file, on the CPU.

    Raises:
        ModelError: not a whole model of a known layout, or its configuration does not fit.
        OSError, ValueError, SafetensorError: as diffusers raises them.
    """
    header = Header.read(path)
    family = family_of(name, header)
    with _config_folder(name, path, header, family) as folder:
        index = PipelineIndex(name, folder / INDEX, registry)
        _check_fits(name, path, header, family, folder)
        return index.load(path, config=str(folder), torch_dtype=dtype)


def _check_fits(name: str, path: Path, header: Header, family: str, folder: Path) -> None:
    """Check that the file has every tensor that its configuration asks for, in its shape.

    Raises:
        ModelError: it has not, or its UNet has more; names the first.
    """
    state = original_keys.original_state(_empty_parts(folder), family)
    wanted = {key: tuple(value.shape) for key, value in state.items()}
    for prefix, label in _LABELS.items():
        theirs = {key: s for key, s in header.shapes.items() if key.startswith(prefix)}
        ours = {key: shape for key, shape in wanted.items() if key.startswith(prefix)}
        missing = [key for key in ours if key not in theirs]
        more = [key for key in theirs if key not in wanted]
        reshaped = [k for k in ours if k in theirs and _squeezed(ours[k]) != _squeezed(theirs[k])]
        said = f"The {label} in the file {name!r}"
        if missing and more and prefix != "con":
            said += f" is not that of {family}: it has no {missing[0]!r}, and has {more[0]!r}; "
        elif missing:
            said = (
                f"The file {name!r} lacks {len(missing)} tensors of its {label}, such as "
                f"{missing[0]!r}; if it is whole, it is of another architecture than {family}: "
            )
        elif more and prefix == original_keys.UNET:
            said += f" has {len(more)} tensors more than that of {family}, such as {more[0]!r}; "
        elif reshaped:
            key = reshaped[0]
            said += (
                f" is of another shape than that of {family}: {key!r} is {theirs[key]}, not "
                f"{ours[key]}; "
            )
        else:
            continue
        raise ModelError(
            f"{said}put a diffusers folder of its configurations at "
            f"{str(path.with_suffix(''))!r}, or name a diffusers folder."
        )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the 1 x 1 of a convolution that stands for a linear layer."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def _empty_parts(folder: Path) -> SimpleNamespace:
    """The models that the configurations in a diffusers folder describe, without memory."""
    import diffusers
    import transformers

    parts = SimpleNamespace()
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    with torch.device("meta"):
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            library, class_name = index.get(part, ("", ""))
            if library == "diffusers":
                model = getattr(diffusers, class_name)
                setattr(parts, part, model.from_config(model.load_config(folder / part)))
            elif library:
                config = transformers.CLIPTextConfig.from_pretrained(folder / part)
                setattr(parts, part, getattr(transformers, class_name)(config))
    return parts


def family_of(name: str, header: Header) -> str:
    """The built-in family whose original layout the file has.

    Raises:
        ModelError: it has none of them, or lacks a part.
    """
    shapes = header.shapes
    family = next((family for family, mark in _FAMILIES.items() if mark in shapes), None)
    if family is None:
        for part, reason in _OTHERS.items():
            if any(part in key for key in shapes):
                raise ModelError(f"The file {name!r} can't be worked on: {reason}.")
        raise ModelError(
            f"The file {name!r} has no text encoder under the names of Stable Diffusion 1.x, 2.x "
            "or XL; name a whole model in its original layout, or a diffusers folder."
        )
    for part, needed in _PARTS.items():
        if needed not in shapes:
            raise ModelError(f"The file {name!r} has no {part}; name a whole model.")
    if (channels := shapes[_UNET][1]) != 4:
        raise ModelError(
            f"The UNet in the file {name!r} takes {channels} channels and not the 4 of a latent, "
            "so it edits or fills in pictures; name a text-to-image model."
        )
    return family


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
            file = folder / part
            current = json.loads(file.read_text(encoding="utf-8"))
            file.write_text(json.dumps({**current, **values}), encoding="utf-8")
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
    if "ztsnr" in header.shapes and scheduler["prediction_type"] == "v_prediction":
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if family == "sd2" and scheduler["prediction_type"] == "epsilon":  # 2.x base: 512 pixels
        changes["unet/config.json"] = {"sample_size": 64}
    return changes


def prediction_type(name: str, path: Path, header: Header, family: str) -> str:
    """What the UNet in the file predicts: "epsilon" or "v_prediction".

    Names and shapes don't tell. Where it is looked for, in this order: metadata in the file, of
    ModelSpec or plain; a tensor `v_pred`, as ComfyUI has it; a .yaml of the same name beside the
    file, as A1111 has it. Stable Diffusion 1.x and XL predict noise where nothing says otherwise.

    Raises:
        ModelError: it predicts something else; or Stable Diffusion 2.x, of which both kinds exist,
            and nothing tells.
    """
    if edm := [key for key in header.shapes if key.startswith("edm_")]:
        raise ModelError(
            f"The file {name!r} has {edm[0]!r}, so it was trained in the formulation of EDM "
            "(Karras et al. 2022), whose UNet predicts neither noise nor v; name another model."
        )
    metadata, beside = header.metadata, path.with_suffix(".yaml")
    architecture = metadata.get("modelspec.architecture", "")
    for key in ("modelspec.prediction_type", "prediction_type", "modelspec.predict_key"):
        if metadata.get(key):
            return _prediction(name, f"{key} in its metadata", metadata[key])
    noted = metadata.get("ss_v_parameterization", metadata.get("ss_v_pred", ""))
    if noted.lower() == "true" or "v_pred" in header.shapes or architecture.endswith("-v"):
        return "v_prediction"
    if beside.is_file():
        said = next(_said_in_yaml(beside), "epsilon")  # the default of LDM's classes
        return _prediction(name, str(beside), said)
    if family != "sd2" or architecture:
        return "epsilon"
    raise ModelError(
        f"The file {name!r} is of Stable Diffusion 2.x and doesn't say whether it predicts noise "
        f"or v; write {str(beside)!r} beside it with the line "
        "'parameterization: v' (768 pixels) or 'parameterization: eps' (base, 512 pixels)."
    )


def _prediction(name: str, where: str, said: str) -> str:
    word = said.strip().lower().replace("-", "").replace("_", "")
    if word not in _PREDICTIONS:
        raise ModelError(
            f"The file {name!r} predicts {said!r} ({where}); noise can be had from 'epsilon' and "
            "'v_prediction' alone."
        )
    return _PREDICTIONS[word]


def _said_in_yaml(path: Path) -> Iterator[str]:
    """What a configuration of LDM or sgm says of the prediction: `parameterization`, or a scaling.

    Raises:
        ModelError: it can't be read as YAML.
    """
    try:
        open_nodes = [yaml.safe_load(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        line = str(error).splitlines()[0]
        raise ModelError(why_unreadable(path, OSError(line))) from error
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, list):
            open_nodes += node
        elif isinstance(node, dict):
            open_nodes += node.values()
            if node.get("parameterization") is not None:
                yield str(node["parameterization"])
            target = str(node.get("target", ""))
            if target.endswith("Scaling"):
                yield target.rpartition(".")[2]


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's vocabulary: token to id (49,408 of them), and the merges, "left right", first first.

    All of Stable Diffusion 1.x, 2.x and XL use it (Radford et al., CLIP, 2021). open_clip has it
    under other names of begin and end of text.
    """
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    tokens = [*list(tokenizer.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, [" ".join(m) for m in tokenizer.bpe_ranks]


def write_clip_vocabulary(folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` into a tokenizer's folder."""
    vocabulary, merges = clip_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *merges, ""])
    (folder / "merges.txt").write_text(lines, encoding="utf-8")

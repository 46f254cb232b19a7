"""The bundled configurations are those of the real models: sizes, names, and token ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import open_clip
import pytest
import torch
import transformers

from erasekit.models import original_keys
from erasekit.models.original_keys import original_state
from erasekit.models.single_file import bundled_config, clip_vocabulary, write_clip_vocabulary
from tests.models.conftest import FAMILIES

PARAMETERS = {
    "sd1": {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863},
    "sd2": {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": 83_653_863},
    "sdxl": {
        "unet": 2_567_463_684,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "vae": 83_653_863,
    },
}
"""Numbers of parameters that are published for Stable Diffusion 1.5, 2.1 and XL base."""

CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


def shaped(family: str, part: str) -> Any:
    """The part with its real shapes and no memory."""
    folder = bundled_config(family) / part
    with torch.device("meta"):
        if part in ("unet", "vae"):
            cls = getattr(diffusers, CLASSES[part])
            return cls.from_config(cls.load_config(folder))
        cls = getattr(transformers, CLASSES[part])
        return cls(transformers.CLIPTextConfig.from_pretrained(folder))


@pytest.mark.parametrize(
    ("family", "part"), [(f, part) for f in FAMILIES for part in PARAMETERS[f]]
)
def test_parts_have_the_published_number_of_parameters(family: str, part: str) -> None:
    found = sum(p.numel() for p in shaped(family, part).parameters())
    assert found == PARAMETERS[family][part]


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_reads_every_name_of_the_original_layout(family: str) -> None:
    """At full size: names of a whole original file, converted by diffusers, are the UNet's."""
    from diffusers.loaders import single_file_utils

    class Parts:
        def __init__(self) -> None:
            for part in PARAMETERS[family]:
                setattr(self, part, shaped(family, part))

    parts = Parts()
    state = original_state(parts, family)
    kind = single_file_utils.infer_diffusers_model_type(state)
    assert kind in {"sd1": ("v1",), "sd2": ("v2",), "sdxl": ("xl_base",)}[family]
    unet = parts.unet  # type: ignore[attr-defined]
    converted = single_file_utils.convert_ldm_unet_checkpoint(dict(state), unet.config)
    shapes = {name: tuple(value.shape) for name, value in converted.items()}
    assert shapes == {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    assert f"{original_keys.UNET}input_blocks.0.0.weight" in state


@pytest.mark.parametrize("family", FAMILIES)
def test_schedulers_load_as_the_models_come(family: str) -> None:
    name, prediction = {
        "sd1": ("PNDMScheduler", "epsilon"),
        "sd2": ("DDIMScheduler", "v_prediction"),
        "sdxl": ("EulerDiscreteScheduler", "epsilon"),
    }[family]
    folder = bundled_config(family) / "scheduler"
    scheduler = getattr(diffusers, name).from_pretrained(folder)
    assert scheduler.config.prediction_type == prediction
    assert abs(float(scheduler.alphas_cumprod[-1]) - 0.0047) < 1e-4


def test_the_vocabulary_is_open_clips() -> None:
    vocabulary, merges = clip_vocabulary()
    reference = open_clip.tokenizer.SimpleTokenizer()
    assert list(vocabulary.values()) == list(range(49_408))
    assert list(vocabulary)[:-2] == list(reference.encoder)[:-2]
    assert [tuple(merge.split()) for merge in merges] == list(reference.bpe_ranks)


TEXTS = (
    "",
    "a photo of a cat",
    "Hello,  WORLD! It's 2024 - naïve café 日本",
    "garbage truck, van gogh style; 8k (masterpiece:1.2)",
    "word " * 200,
)


@pytest.mark.parametrize(
    ("family", "tokenizer", "padding"),
    [
        ("sd1", "tokenizer", 49407),
        ("sd2", "tokenizer", 0),
        ("sdxl", "tokenizer", 49407),
        ("sdxl", "tokenizer_2", 0),
    ],
)
def test_token_ids_are_open_clips(
    family: str, tokenizer: str, padding: int, tmp_path: Path
) -> None:
    """Beside padding. Where "!" is the padding, transformers also reads a "!" in a text as it."""
    folder = shutil.copytree(bundled_config(family) / tokenizer, tmp_path / "tokenizer")
    write_clip_vocabulary(folder)
    ours = transformers.CLIPTokenizer.from_pretrained(folder)
    assert ours.model_max_length == 77
    for text in TEXTS:
        text = text if padding else text.replace("!", "")
        found = ours(text, padding="max_length", max_length=77, truncation=True).input_ids
        wanted = open_clip.tokenize([text])[0].tolist()
        end = wanted.index(49407)
        assert found == wanted[: end + 1] + [padding] * (76 - end)

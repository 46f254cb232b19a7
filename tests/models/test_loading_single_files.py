"""Single files in the original layouts: the same model as the folder, and nothing is fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from erasekit.diffusion.sampling import generate
from erasekit.errors import ModelError
from erasekit.models.loading import LoadedModel, load_model
from erasekit.models.single_file import Header, family_of, prediction_type
from erasekit.plugin.registry import Registry
from tests.images import assert_drawn_alike
from tests.models.conftest import FAMILIES

Loaded = Callable[[str], LoadedModel]
Writer = Callable[..., Path]


def draw(model: LoadedModel) -> np.ndarray:
    return generate(model, ["a church", "a bus"], [0, 1], num_inference_steps=3, guidance_scale=4)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(path), Registry())
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_same_model_as_its_folder(
    loaded: Loaded, single_file: Writer, family: str, no_network: None
) -> None:
    folder = loaded(family)
    file = load_model(str(single_file(family)), Registry())
    assert file.hash == folder.hash
    assert file.family.name == family
    assert file.family.prediction_type == folder.family.prediction_type
    assert_drawn_alike(draw(file), draw(folder))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loading a file asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_pipeline_of_a_single_file_saves_as_a_folder(single_file: Writer, tmp_path: Path) -> None:
    model = load_model(str(single_file("sdxl")), Registry())
    model.pipeline.save_pretrained(tmp_path / "saved", safe_serialization=True)
    again = load_model(str(tmp_path / "saved"), Registry())
    assert again.hash == model.hash
    assert_drawn_alike(draw(again), draw(model))


def test_half_precision_may_be_asked_for(single_file: Writer) -> None:
    path = single_file("sd1")
    half = load_model(str(path), Registry(), dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    assert half.hash == load_model(str(path), Registry()).hash


def test_a_file_of_another_shape_needs_its_configuration(single_file: Writer) -> None:
    """The bundled configurations are of the real models; this file is tiny."""
    assert "can't be read" in refusal(single_file("sd1", configured=False))


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "has no UNet"),
        ("first_stage_model.decoder.conv_in.weight", "has no autoencoder"),
        ("cond_stage_model.transformer.text_model", "has no text encoder"),
        ("model.diffusion_model.middle_block.1", "lacks .*tensors of "),
    ],
)
def test_incomplete_files_say_what_is_missing(single_file: Writer, missing: str, says: str) -> None:
    path = single_file("sd1")
    state = {key: value for key, value in load_file(path).items() if missing not in key}
    save_file(state, path)
    import re

    assert re.search(says, refusal(path))


def header(*names: str, channels: int = 4, **metadata: str) -> Header:
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (1,))
    shapes |= {
        "model.diffusion_model.input_blocks.0.0.weight": (320, channels, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (1,),
    }
    return Header(shapes, {f"modelspec.{key}": value for key, value in metadata.items()})


SD1 = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
SD2 = "cond_stage_model.model.positional_embedding"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (header(SD1, channels=9), "takes 9 channels"),
        (header("model.diffusion_model.joint_blocks.0.x"), "Stable Diffusion 3"),
        (header("model.diffusion_model.double_blocks.0.x"), "Flux"),
        (header("conditioner.embedders.0.model.positional_embedding"), "refiner"),
        (header("lora_unet_mid_block.lora_down.weight"), "LoRA"),
        (header("weight"), "no text encoder"),
    ],
)
def test_other_layouts_are_refused_with_the_reason(found: Header, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        family_of("model.safetensors", found)


@pytest.mark.parametrize(
    ("found", "yaml", "expected"),
    [
        (header(SD2, prediction_type="v"), "", "v_prediction"),
        (header(SD2, prediction_type="epsilon"), "", "epsilon"),
        (header(SD2, architecture="stable-diffusion-v2-768-v"), "", "v_prediction"),
        (header(SD2, architecture="stable-diffusion-v2-512"), "", "epsilon"),
        (header(SD2, "v_pred"), "", "v_prediction"),
        (header(SD2), '    parameterization: "v"\n', "v_prediction"),
        (header(SD2), "    parameterization: eps\n", "epsilon"),
    ],
)
def test_what_an_sd2_file_predicts_is_read_where_it_is_written(
    found: Header, yaml: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    if yaml:
        path.with_suffix(".yaml").write_text(f"model:\n  params:\n{yaml}", encoding="utf-8")
    assert prediction_type("model", path, found, "sd2") == expected
    assert prediction_type("model", path, header(SD1), "sd1") == (expected if yaml else "epsilon")


def test_an_sd2_file_that_does_not_tell_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match=r"model\.yaml.*parameterization: v"):
        prediction_type("model", path, header(SD2), "sd2")


@pytest.mark.parametrize("ending", [".ckpt", ".bin", ".pt", ".CKPT"])
def test_pickled_files_are_refused_with_a_command_that_converts(
    single_file: Writer, ending: str
) -> None:
    path = single_file("sd1")
    pickled = path.with_name(f"old{ending}")
    state: dict[str, Any] = {"state_dict": dict(load_file(path)), "global_step": 7}
    torch.save(state, pickled)
    sentence = refusal(pickled)
    assert "run any code" in sentence
    if ending != ".ckpt":
        return
    command = sentence[sentence.index("python -c ") :]
    argument = command.removeprefix('python -c "').removesuffix('"')
    subprocess.run([sys.executable, "-c", argument], check=True, capture_output=True)
    converted = load_file(pickled.with_suffix(".safetensors"))
    assert set(converted) == set(load_file(path))
    path.with_suffix("").rename(pickled.with_suffix(""))
    assert load_model(str(pickled.with_suffix(".safetensors")), Registry()).hash


def test_the_conversion_runs_nothing_from_the_pickle(tmp_path: Path) -> None:
    from erasekit.models.names import conversion_command

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": Payload()}, tmp_path / "evil.ckpt")
    argument = conversion_command(tmp_path / "evil.ckpt").removeprefix('python -c "')[:-1]
    run = subprocess.run([sys.executable, "-c", argument], capture_output=True, text=True)
    assert run.returncode != 0
    assert not (tmp_path / "executed").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "There is no file" in refusal(tmp_path / "none.safetensors")


def test_a_damaged_file_is_refused(single_file: Writer) -> None:
    path = single_file("sd1")
    path.write_bytes(path.read_bytes()[:1000])
    assert "damaged" in refusal(path)


def test_the_configuration_beside_may_name_no_code(single_file: Writer) -> None:
    path = single_file("sd1")
    index = path.with_suffix("") / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "unet": ["own_code", "OwnUNet"]}))
    assert "would run code" in refusal(path)

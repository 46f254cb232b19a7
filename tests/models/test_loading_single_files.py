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
    said = refusal(single_file("sd1", configured=False))
    assert "The UNet in the file" in said
    assert "is not that of sd1" in said
    assert "configurations at" in said


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


SGM = """model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    denoiser_config:
      params:
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.{}
"""


@pytest.mark.parametrize(
    ("found", "yaml", "expected"),
    [
        (Header(header(SD1).shapes, {"prediction_type": "v"}), "", "v_prediction"),
        (Header(header(SD1).shapes, {"prediction_type": "v_prediction"}), "", "v_prediction"),
        (Header(header(SD1).shapes, {"prediction_type": "epsilon"}), "", "epsilon"),
        (header(SD1, prediction_type="V-Prediction"), "", "v_prediction"),
        (header(SD1), 'model:\n  params:\n    parameterization: "v"  # of 2.1\n', "v_prediction"),
        (header(SD1), "model: {params: {parameterization: v, timesteps: 1000}}", "v_prediction"),
        (header(SD1), "# parameterization: v\nmodel:\n  params: {}\n", "epsilon"),
        (header(SD1), "note: >\n  parameterization: v\n", "epsilon"),
        (header(SD1), SGM.format("VScaling"), "v_prediction"),
        (header(SD1), SGM.format("EpsScaling"), "epsilon"),
    ],
)
def test_what_any_file_predicts_is_read_where_it_is_written(
    found: Header, yaml: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    if yaml:
        path.with_suffix(".yaml").write_text(yaml, encoding="utf-8")
    for family in ("sd1", "sd2", "sdxl"):
        assert prediction_type("model", path, found, family) == expected


@pytest.mark.parametrize(
    ("found", "yaml", "reason"),
    [
        (header(SD1, "edm_mean", "edm_std"), "", "EDM"),
        (header(SD1, "edm_vpred.sigma_max"), "", "EDM"),
        (header(SD1, prediction_type="x0"), "", "predicts 'x0'"),
        (Header(header(SD1).shapes, {"prediction_type": "sample"}), "", "predicts 'sample'"),
        (header(SD1), "parameterization: x0", "predicts 'x0'"),
        (header(SD1), SGM.format("EDMScaling"), "predicts 'EDMScaling'"),
        (header(SD1), "a: [", r"model\.yaml.*damaged"),
    ],
)
def test_what_predicts_something_else_is_refused(
    found: Header, yaml: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    if yaml:
        path.with_suffix(".yaml").write_text(yaml, encoding="utf-8")
    for family in ("sd1", "sd2", "sdxl"):
        with pytest.raises(ModelError, match=reason):
            prediction_type("model", path, found, family)


def rewritten(path: Path, rename: Callable[[str], str | None]) -> None:
    """The file with other names of tensors; None leaves one out."""
    state = {rename(key): value for key, value in load_file(path).items()}
    save_file({key: value for key, value in state.items() if key is not None}, path)


@pytest.mark.parametrize(
    ("rename", "reason"),
    [
        (
            lambda key: key.replace(
                "first_stage_model.decoder.mid.attn_1.q", "first_stage_model.a"
            ),
            "The autoencoder in the file .* is not that of sdxl: it has no 'first_stage_model.dec",
        ),
        (
            lambda key: None if "middle_block.1.transformer_blocks.0" in key else key,
            "lacks .* tensors of its UNet.* if it is whole, it is of another architecture",
        ),
        (
            lambda key: key.replace("transformer_blocks.0.attn1", "transformer_blocks.1.attn1"),
            "The UNet in the file .* is not that of sdxl",
        ),
        (
            lambda key: None if "embedders.1.model.ln_final" in key else key,
            "lacks 2 tensors of its text encoder",
        ),
    ],
)
def test_another_architecture_is_named_as_the_cause(
    single_file: Writer, rename: Callable[[str], str | None], reason: str
) -> None:
    """As distilled models (SSD-1B) and others' autoencoders come; another copy would not help."""
    path = single_file("sdxl")
    rewritten(path, rename)
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(str(path), Registry())
    assert "fetch it again" not in str(caught.value)


def test_a_unet_with_more_layers_than_its_configuration_is_refused(single_file: Writer) -> None:
    """diffusers drops what it does not know."""
    path = single_file("sd1")
    state = load_file(path)
    name = next(k for k in state if "middle_block.1.transformer_blocks.0.norm1.weight" in k)
    save_file({**state, name.replace("blocks.0", "blocks.1"): state[name].clone()}, path)
    assert "1 tensors more than that of sd1" in refusal(path)


def test_zero_terminal_snr_is_for_models_that_predict_v(tmp_path: Path) -> None:
    from erasekit.models.single_file import _configuration

    path = tmp_path / "model.safetensors"
    both = _configuration("m", path, header(SD1, "v_pred", "ztsnr"), "sdxl")
    noise = _configuration("m", path, header(SD1, "ztsnr"), "sdxl")
    key = "scheduler/scheduler_config.json"
    assert both[key]["rescale_betas_zero_snr"] is True
    assert noise[key] == {"prediction_type": "epsilon"}


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

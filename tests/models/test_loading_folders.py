"""Diffusers folders: precisions, variants, shards, and nothing that could run code."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from erasekit.errors import ModelError
from erasekit.models.loading import LoadedModel, load_model
from erasekit.models.pipeline_files import choose_variant
from erasekit.plugin.registry import Registry

Loaded = Callable[[str], LoadedModel]
PARTS = ("unet", "vae", "text_encoder")


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(path), Registry())
    return str(caught.value)


@pytest.fixture
def copied(family_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the SDXL model's folder, to be changed."""
    return Path(shutil.copytree(family_folders["sdxl"], tmp_path / "model"))


def test_fp16_files_are_read_where_there_are_no_others(loaded: Loaded, tmp_path: Path) -> None:
    model = loaded("sdxl")
    wanted = model.hash
    model.pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert list(tmp_path.glob("unet/*.fp16.safetensors"))
    full = load_model(str(tmp_path), Registry())
    assert full.unet.dtype == torch.float32
    assert full.hash == wanted


def test_sharded_fp16_files_are_read(loaded: Loaded, tmp_path: Path) -> None:
    model = loaded("sdxl")
    wanted = model.hash
    model.pipeline.to(torch.float16).save_pretrained(
        tmp_path, variant="fp16", max_shard_size="100KB"
    )
    assert len(list(tmp_path.glob("unet/*.safetensors"))) > 1
    assert load_model(str(tmp_path), Registry()).hash == wanted


PLAIN = [f"{part}/model.safetensors" for part in PARTS]
HALF = [f"{part}/model.fp16.safetensors" for part in PARTS]


@pytest.mark.parametrize(
    ("files", "full", "half"),
    [
        (PLAIN, None, None),
        (HALF, "fp16", "fp16"),
        (PLAIN + HALF, None, "fp16"),
        (PLAIN[:2] + HALF[2:], "fp16", "fp16"),
        (
            [f"{p}/diffusion_pytorch_model.fp16-00001-of-00002.safetensors" for p in PARTS],
            "fp16",
            "fp16",
        ),
        (
            [f"{p}/diffusion_pytorch_model-00001-of-00002.fp16.safetensors" for p in PARTS],
            "fp16",
            "fp16",
        ),
        ([*PLAIN, "unet/diffusion_pytorch_model.non_ema.safetensors"], None, None),
    ],
)
def test_the_variant_follows_the_files_and_the_precision(
    files: list[str], full: str | None, half: str | None
) -> None:
    assert choose_variant("model", files, PARTS, torch.float32) == full
    assert choose_variant("model", files, PARTS, torch.float16) == half
    assert choose_variant("model", files, PARTS, torch.bfloat16) == half


def test_variants_that_make_no_whole_are_refused() -> None:
    files = [HALF[0], "vae/model.bf16.safetensors", PLAIN[2]]
    with pytest.raises(ModelError, match="different variants"):
        choose_variant("model", files, PARTS, torch.float32)


def test_pickled_weights_are_refused_with_a_command_that_converts_them(
    copied: Path, tmp_path: Path
) -> None:
    """Of a folder whose other parts are safetensors; the command is run as it stands."""
    whole = load_model(str(copied), Registry()).hash
    for path in copied.glob("unet/*.safetensors"):
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
    sentence = refusal(copied)
    assert "unet/diffusion_pytorch_model.bin" in sentence
    command = shlex.split(sentence.partition("tensors alone: ")[2])
    assert command[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert load_model(str(tmp_path / "converted"), Registry()).hash == whole


def test_the_command_names_the_repository_and_its_revision() -> None:
    files = ["unet/diffusion_pytorch_model.bin"]
    with pytest.raises(ModelError, match=r"from_pretrained\(r'acme/sd', revision=r'v1'\)\.save"):
        choose_variant("mine", files, ["unet"], torch.float32, source="acme/sd@v1")


def test_weights_that_are_not_there_are_named(copied: Path) -> None:
    shutil.rmtree(copied / "text_encoder_2")
    assert "no weights for its 'text_encoder_2'" in refusal(copied)


def test_code_in_a_folder_is_not_run(copied: Path) -> None:
    """Neither a part's module, nor a pipeline's, nor what a configuration maps `Auto` names to."""
    flag = copied / "executed"
    code = f"import pathlib; pathlib.Path(r'{flag}').touch()\nfrom diffusers import *\n"
    for name in ("pipeline.py", "unet/own_unet.py", "text_encoder/modeling.py", "setup.py"):
        (copied / name).write_text(code)
    config = copied / "text_encoder" / "config.json"
    mapped = {**json.loads(config.read_text()), "auto_map": {"AutoModel": "modeling.Model"}}
    config.write_text(json.dumps(mapped))
    load_model(str(copied), Registry())
    assert not flag.exists()

    index = copied / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "unet": ["own_unet", "OwnUNet"]}))
    assert "'own_unet', which would run code" in refusal(copied)
    index.write_text(json.dumps({**content, "_class_name": ["pipeline", "OwnPipeline"]}))
    assert "of no family" in refusal(copied)
    assert not flag.exists()


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "FluxPipeline"])
def test_other_families_are_refused_before_their_weights_are_read(copied: Path, name: str) -> None:
    for path in copied.rglob("*.safetensors"):
        path.unlink()
    index = copied / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": name}))
    assert name in refusal(copied)

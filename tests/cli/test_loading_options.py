"""Where, in which precision and at which revision commands load a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from erasekit.cli.loading import chosen_model, opened
from erasekit.errors import ModelError
from erasekit.plugin.registry import Registry

Run = Callable[..., Any]


@pytest.mark.parametrize("command", ["erase", "generate", "trace", "bench", "export"])
def test_a_device_that_is_not_there_is_one_sentence(
    run: Run, make_run: Callable[..., Path], tiny_folder: Path, tmp_path: Path, command: str
) -> None:
    arguments = {
        "erase": ("--concept", "church", "--model", tiny_folder, "-o", tmp_path / "new"),
        "generate": ("-p", "church", "--model", tiny_folder, "-o", tmp_path / "new"),
        "trace": (make_run("random", "garbage truck"), "-o", tmp_path),
        "bench": ("--model", tiny_folder, "-o", tmp_path / "new"),
        "export": (make_run("l2", "church"), "-o", tmp_path / "new"),
    }[command]
    result = run(command, *arguments, "--device", "tpu")
    assert result.code == 2
    assert "Unknown device 'tpu'; use auto, cpu, cuda, mps." in result.err
    assert not (tmp_path / "new").exists()


def test_fp16_weights_draw_and_erase_nearly_the_same(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    def drawn(*arguments: object) -> np.ndarray:
        common = ("generate", "-p", "church", "-n", 1, "--steps", 3, "--overwrite")
        result = run(*common, "-o", tmp_path / "images", "--json", *arguments)
        assert result.code == 0, result.err
        return np.asarray(Image.open(result.json["images"][0]["path"]), dtype=float)

    full = drawn("--model", tiny_folder)
    half = drawn("--model", tiny_folder, "--dtype", "fp16")
    assert 0 < np.abs(full - half).max() < 8
    folder = tmp_path / "run"
    settings = ("steps=2", "trajectory_steps=2", "trajectories=1")
    erased = run(
        *("erase", "--concept", "church", "--method", "none", "--model", tiny_folder),
        *("--dtype", "fp16", "--no-measure", "-o", folder, "--json"),
        *(part for setting in settings for part in ("--set", setting)),
    )
    assert erased.code == 0, erased.err
    assert json.loads((folder / "request.json").read_text())["dtype"] == "fp16"
    assert drawn("--edit", folder).shape == full.shape  # the same model by its hash


def test_weights_are_not_loaded_in_bf16(run: Run, tiny_folder: Path) -> None:
    result = run("generate", "-p", "church", "--model", tiny_folder, "--dtype", "bf16")
    assert result.code == 2
    assert "--dtype" in result.err
    assert "bf16" in result.err


def test_a_model_is_opened_in_the_precision_asked_for(tiny_folder: Path) -> None:
    from erasekit.cli.context import LoadedAs

    with opened(str(tiny_folder), Registry(), dtype=LoadedAs.FP16) as model:
        assert model.family.dtype == torch.float16


def test_a_revision_is_part_of_the_name() -> None:
    assert chosen_model("acme/model", revision="v1") == "acme/model@v1"
    assert chosen_model("sd1.5", revision="fp16") == "sd1.5@fp16"
    with pytest.raises(ModelError, match="names a revision already"):
        chosen_model("acme/model@v1", revision="v2")


@pytest.mark.parametrize("command", ["erase", "generate", "bench"])
def test_commands_take_a_revision(run: Run, tmp_path: Path, command: str) -> None:
    first = {"erase": ("-c", "bus"), "generate": ("-p", "bus"), "bench": ()}[command]
    result = run(command, *first, "-m", "acme/nothing", "--revision", "v1", "-o", tmp_path / "new")
    assert result.code == 2
    assert "'acme/nothing@v1' is not in the local cache" in result.err

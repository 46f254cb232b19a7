"""`export`: plain diffusers loads it and draws what erasekit draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from erasekit.edits import load_edit

Run = Callable[..., Any]


def test_plain_diffusers_draws_the_same_images(
    run: Run, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_run("l2", "church")
    exported = run("export", folder, "--to", "diffusers", "-o", tmp_path / "whole", "--json").json
    assert exported["schema"] == 1
    assert exported["folder"] == str(tmp_path / "whole")
    drawn = run(
        *("generate", "-e", folder, "-p", "church", "--seed", 3, "-n", 1, "--steps", 4),
        *("--guidance", 2, "-o", tmp_path / "drawn", "--json"),
    ).json
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        plain = pipeline(
            "church",
            num_inference_steps=4,
            guidance_scale=2,
            generator=torch.Generator("cpu").manual_seed(3),
            output_type="np",
        ).images[0]
    with Image.open(drawn["images"][0]["path"]) as image:
        difference = np.asarray(image).astype(float) - plain * 255
    assert np.abs(difference).max() <= 1


def test_the_exported_tensors_are_the_edits(
    run: Run, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_run("l2", "church")
    assert run("export", folder, "-o", tmp_path / "whole").code == 0
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
    parameters = dict(pipeline.unet.named_parameters())
    tensors = load_edit(folder).tensors
    assert tensors
    for name, value in tensors.items():
        assert torch.equal(parameters[name], value)


def test_the_folder_is_told_with_the_line_that_loads_it(
    run: Run, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    result = run("export", make_run("l2", "church"), "-o", tmp_path / "whole")
    assert f'StableDiffusionPipeline.from_pretrained("{tmp_path / "whole"}")' in result.out


def test_bad_input_is_one_sentence(
    run: Run, make_run: Callable[..., Path], other_tiny_folder: Path, tmp_path: Path
) -> None:
    folder = make_run("l2", "church")
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("", encoding="utf-8")
    assert "--overwrite" in run("export", folder, "-o", full).sentence
    assert "no run folder" in run("export", tmp_path / "nowhere").sentence
    other = run("export", folder, "-m", other_tiny_folder, "-o", tmp_path / "new")
    assert (other.code, "--force" in other.sentence) == (2, True)
    assert not (tmp_path / "new").exists()
    unknown = run("export", folder, "--to", "comfyui")
    assert (unknown.code, "comfyui" in unknown.err) == (2, True)


def test_a_damaged_edit_is_one_sentence(
    run: Run, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_run("l2", "church")
    for name, damage in (("edit.safetensors", b"\x00\x01"), ("edit.json", b"{")):
        copy = tmp_path / name.replace(".", "-")
        copy.mkdir()
        for file in source.iterdir():
            (copy / file.name).write_bytes(damage if file.name == name else file.read_bytes())
        result = run("export", copy, "-o", tmp_path / "new")
        assert result.code == 2
        assert name in result.sentence
    assert not (tmp_path / "new").exists()

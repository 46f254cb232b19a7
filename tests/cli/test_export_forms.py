"""`export` in its other forms, with their options, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from erasekit.edits import load_edit
from erasekit.models.loading import LoadedModel
from tests.exports.conftest import perturbed

Run = Callable[..., Any]


@pytest.fixture
def folder(tiny_model: LoadedModel, tmp_path: Path) -> Path:
    """A run folder on the tiny model."""
    edit = perturbed(tiny_model, only=lambda name: name.endswith("weight"))
    edit.save(tmp_path / "run")
    return tmp_path / "run"


def test_a_lora_says_its_rank_and_its_error(run: Run, folder: Path) -> None:
    payload = run("export", folder, "--to", "lora", "--energy", 0.9, "--json").json
    assert payload["path"] == str(folder / "lora" / "pytorch_lora_weights.safetensors")
    report = payload["report"]
    assert report["energy"] == 0.9
    assert 0 < report["weights_error"] < 0.32
    assert report["error"]["images"] == 2
    assert report["error"]["pixel_max"] >= 0
    assert payload["bytes"] == Path(payload["path"]).stat().st_size
    told = run("export", folder, "--to", "lora", "--rank", 2, "--images", 0, "--overwrite")
    assert told.code == 0
    assert "Rank 2 to 2" in told.err
    assert "of 8-bit pixels" not in told.err
    assert "load_lora_weights" in told.out


def test_a_kohya_file_in_half_precision_where_it_is_wanted(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "church-gone.safetensors"
    arguments = ("--layout", "kohya", "--dtype", "fp16", "--images", 0, "-o", path)
    result = run("export", folder, "--to", "lora", *arguments)
    assert result.code == 0
    assert "ComfyUI" in result.out
    tensors = load_file(path)
    assert all(name.startswith("lora_unet_") for name in tensors)
    halves = {value.dtype for name, value in tensors.items() if not name.endswith("alpha")}
    assert halves == {torch.float16}


def test_a_single_file_and_a_delta(run: Run, folder: Path, tiny_folder: Path) -> None:
    single = run("export", folder, "--to", "single-file", "--json").json
    assert single["path"] == str(folder / "single-file" / "model.safetensors")
    assert "from_single_file" in single["load_with"]
    delta = run("export", folder, "--to", "delta", "--json").json
    again = load_edit(delta["path"])
    assert again.tensors.keys() == load_edit(folder).tensors.keys()
    whole = run("export", delta["path"], "-m", tiny_folder, "--json").json
    assert whole["folder"] == str(folder / "weights" / "edit" / "diffusers")


def test_bad_options_are_one_sentence_and_leave_nothing(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    for arguments, part in (
        (("--to", "delta", "--dtype", "fp16"), "--dtype has no meaning for --to weights"),
        (("--rank", 3), "--rank has no meaning for --to diffusers; it is for lora"),
        (("--to", "lora", "--energy", 2), "The energy 2.0 is not a share"),
        (("--to", "lora", "--rank", 0), "The rank 0 is too small"),
        (("--max-shard-size", "much"), "The shard size 'much' is no size"),
    ):
        result = run("export", folder, *arguments)
        assert result.code == 2
        assert part in result.sentence
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_there_is_not_replaced_unasked(run: Run, folder: Path) -> None:
    assert run("export", folder, "--to", "delta").code == 0
    assert "--overwrite" in run("export", folder, "--to", "delta").sentence
    assert run("export", folder, "--to", "delta", "--overwrite").code == 0


def test_published_weights_are_imported_and_drawn_with(
    run: Run, make_run: Callable[..., Path], tiny_folder: Path, tmp_path: Path
) -> None:
    tensors = load_edit(make_run("l2", "church")).tensors
    file = tmp_path / "esd-church.safetensors"
    save_file({f"unet.{name}": value for name, value in tensors.items()}, file)
    base = ("--model", tiny_folder, "--concept", "church", "--json")
    made = run("import", file, *base, "--method", "esd-x", "-o", tmp_path / "esd").json
    assert made["edit"]["imported"] == {"file": file.name, "tensors": len(tensors)}
    found = load_edit(made["folder"])
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    drawn = run(
        *("generate", "-e", made["folder"], "-p", "church", "-n", 1, "--steps", 2),
        *("-o", tmp_path / "drawn", "--json"),
    ).json
    assert len(drawn["images"]) == 1
    again = run("import", file, *base, "-o", tmp_path / "esd")
    assert (again.code, "--overwrite" in again.sentence) == (2, True)
    assert run("import", file, *base, "-o", tmp_path / "esd", "--overwrite").code == 0

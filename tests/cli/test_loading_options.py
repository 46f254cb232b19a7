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

from erasekit.cli.options import chosen_model, opened
from erasekit.errors import ModelError
from erasekit.plugin.registry import Registry
from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

Run = Callable[..., Any]

OBSERVATIONS = ("observe impact", "observe preserve", "observe spectrum")
IMPACT = ("--erase", "church", "--erase", "bus")
PRESERVE = ("--erase", "church", "--keep", "road", "--keep", "banana")


@pytest.mark.parametrize(
    "command", ["erase", "generate", "trace", "bench", "export", "compare", *OBSERVATIONS]
)
def test_a_device_that_is_not_there_is_one_sentence(
    run: Run, make_run: Callable[..., Path], tiny_folder: Path, tmp_path: Path, command: str
) -> None:
    arguments = {
        "erase": ("--concept", "church", "--model", tiny_folder, "-o", tmp_path / "new"),
        "generate": ("-p", "church", "--model", tiny_folder, "-o", tmp_path / "new"),
        "trace": (make_run("random", "garbage truck"), "-o", tmp_path),
        "bench": ("--model", tiny_folder, "-o", tmp_path / "new"),
        "export": (make_run("l2", "church"), "-o", tmp_path / "new"),
        "compare": (make_run("none", "church"), make_run("l2", "church")),
        "observe impact": (*IMPACT, "--model", tiny_folder, "-o", tmp_path / "new"),
        "observe preserve": (*PRESERVE, "--model", tiny_folder, "-o", tmp_path / "new"),
        "observe spectrum": ("--edit", make_run("none", "church"), "-o", tmp_path / "new"),
    }[command]
    result = run(*command.split(), *arguments, "--device", "tpu")
    assert result.code == 2
    assert "'--device': 'tpu' is not one of 'auto', 'cpu', 'cuda', 'mps'. See:" in result.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["bench", "compare", "observe impact"])
def test_judges_run_where_the_model_does(
    run: Run,
    make_run: Callable[..., Path],
    tiny_folder: Path,
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = {
        "bench": ("--model", tiny_folder, "-o", tmp_path / "new"),
        "compare": (make_run("none", "church"), make_run("l2", "church")),
        "observe impact": (*IMPACT, "--model", tiny_folder, "-o", tmp_path / "new"),
    }[command]
    seen = []

    def spied(*arguments: object, device: torch.device, **named: object) -> None:
        seen.append(device)
        raise ModelError("Seen enough.")

    monkeypatch.setattr("erasekit.metrics.judges.load_judge", spied)
    there = property(lambda family: torch.device("meta"))
    monkeypatch.setattr("erasekit.models.families.base.FamilyAdapter.device", there)
    result = run(*command.split(), *arguments, "--scorer", "icons-clip")
    assert "Seen enough." in result.err
    assert seen == [torch.device("meta")]


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
    from erasekit.cli.options import LoadedAs

    with opened(str(tiny_folder), Registry(), dtype=LoadedAs.FP16) as model:
        assert model.family.dtype == torch.float16


def test_a_revision_is_part_of_the_name() -> None:
    assert chosen_model("acme/model", revision="v1") == "acme/model@v1"
    assert chosen_model("sd1.5", revision="fp16") == "sd1.5@fp16"
    with pytest.raises(ModelError, match="names a revision already"):
        chosen_model("acme/model@v1", revision="v2")


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("erase", ("-c", "bus")),
        ("generate", ("-p", "bus")),
        ("bench", ()),
        ("observe impact", IMPACT),
        ("observe preserve", PRESERVE),
    ],
)
def test_commands_take_a_revision(
    run: Run, tmp_path: Path, command: str, first: tuple[str, ...]
) -> None:
    named = ("-m", "acme/nothing", "--revision", "v1", "-o", tmp_path / "new")
    result = run(*command.split(), *first, *named)
    assert result.code == 2
    assert "'acme/nothing@v1' is not in the local cache" in result.err
    assert not (tmp_path / "new").exists()


def test_commands_on_runs_take_a_model_and_a_revision(
    run: Run, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = make_run("none", "church"), make_run("l2", "church")
    for command in (
        ("compare", a, b),
        ("trace", make_run("random", "garbage truck"), "-o", tmp_path / "new"),
        ("observe", "spectrum", "--edit", a, "-o", tmp_path / "new"),
        ("generate", "-p", "bus", "--edit", a, "-o", tmp_path / "new"),
    ):
        result = run(*command, "--model", "acme/nothing", "--revision", "v1")
        assert result.code == 2
        assert "'acme/nothing@v1' is not in the local cache" in result.err


def test_two_erasures_are_compared_in_the_precision_asked_for(
    run: Run, make_run: Callable[..., Path], tiny_scorer_folder: Path
) -> None:
    runs = (make_run("none", "church"), make_run("l2", "church"))
    common = ("--images-per-concept", 1, "--scorer", f"local-dir:{tiny_scorer_folder}", "--json")
    deltas = []
    for dtype in ("fp32", "fp16"):
        result = run("compare", *runs, *common, "--dtype", dtype)
        assert result.code == 0, result.err
        (one,) = result.json["differing"]
        deltas.append(one["delta"])
    assert deltas[0] != deltas[1]
    assert deltas[0] == pytest.approx(deltas[1], abs=1)


def test_an_observation_says_in_which_precision_it_was_drawn(
    run: Run, tmp_path: Path, make_run: Callable[..., Path], tiny_scorer_folder: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("bus\ncar\nroad\n", encoding="utf-8")
    result = run(
        *("observe", "spectrum", "--edit", make_run("none", "church"), "--words", words),
        *("--probes", 1, "--sample", 2, "--images-per-concept", 2, "--sampling-steps", 2),
        *("--scorer", f"local-dir:{tiny_scorer_folder}", "-o", tmp_path / "new"),
        *("--device", "cpu", "--dtype", "fp16", "--json"),
    )
    assert result.code == 0, result.err
    assert result.json["how"]["generation"]["dtype"] == "torch.float16"

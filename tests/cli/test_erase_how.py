"""`erasekit erase`: device, precision and memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from erasekit.edits import load_edit


def options(tmp_path: Path, tiny_folder: Path) -> list[object]:
    return [
        *("erase", "--concept", "garbage truck", "--method", "neutral", "--model", tiny_folder),
        *("--no-measure", "--json", "--output", tmp_path / "run"),
        *("--set", "steps=1", "--set", "trajectory_steps=2", "--set", "trajectories=1"),
    ]


def test_precision_and_memory_are_taken_and_said(run, tmp_path: Path, tiny_folder: Path) -> None:
    result = run(
        *options(tmp_path, tiny_folder), "--precision", "bf16", "--max-memory", 3, "--device", "cpu"
    )
    assert result.code == 0, result.err
    config = result.json["edit"]["config"]
    assert (config["precision"], config["max_memory"]) == ("bf16", 3.0)
    assert "of 3 are needed; nothing had to change" in result.sentence
    assert result.json["edit"]["device"] == "cpu"
    tensors = load_edit(tmp_path / "run").tensors
    assert {value.dtype for value in tensors.values()} == {torch.float32}


def test_a_shipped_recipe_goes_by_its_name(run, tmp_path: Path, tiny_folder: Path) -> None:
    result = run(*options(tmp_path, tiny_folder), "--config", "published")
    assert result.code == 0, result.err
    config = result.json["edit"]["config"]
    assert (config["loss_space"], config["timesteps"], config["steps"]) == ("z0", "bin", 1)
    again = tmp_path / "again"
    result = run(*options(again, tiny_folder), "--config", "slow")
    assert result.code == 2
    assert "'slow' can't be read" in result.sentence
    assert "fast, published" in result.sentence


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--precision", "fp8"), "Setting precision='fp8'"),
        (("--max-memory", "0.5"), "--max-memory is 0.5"),
        (("--device", "tpu"), "Unknown device 'tpu'"),
    ],
)
def test_what_can_t_be_is_one_sentence_and_leaves_no_folder(
    run, tmp_path: Path, tiny_folder: Path, more: tuple[str, str], sentence: str
) -> None:
    result = run(*options(tmp_path, tiny_folder), *more)
    assert result.code == 2
    assert sentence in result.sentence
    assert not (tmp_path / "run").exists()


def test_only_the_first_of_several_processes_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from erasekit.cli.output import print_error, print_json, print_note, stdout

    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, heard in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        print_error("an error")
        print_note("a note")
        print_json({})
        stdout().print("a result")
        captured = capsys.readouterr()
        assert bool(captured.out) == bool(captured.err) == heard

"""Two CPU processes (gloo) give the edit of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import process_worker

TOLERANCE = 1e-3
"""Largest distance between two edits, as a share of how far the weights moved.

Only the order of sums differs between one process and two, about 1e-7 a pass; Adam's division by
the root of tiny second moments enlarges it to about 1e-5.
"""
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
ACCELERATE = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
    *("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"),
)


def launch(*arguments: str, launcher: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Two processes of `arguments`, on the CPU."""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, *launcher, *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": root,
            "COVERAGE_PROCESS_START": "",
        },
    )


@pytest.mark.slow
def test_two_processes_give_the_edit_of_one() -> None:
    """`l2` has a term beside the UNet, whose gradient must not be counted twice."""
    result = launch(process_worker.__file__, launcher=TORCHRUN)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found) == set(process_worker.CASES)
    for case, row in found.items():
        assert row["processes"] == 2, case
        assert row["same_passes"], case
        assert row["distance"] < TOLERANCE, (case, row)
        for together, alone in row["losses"]:
            assert together == pytest.approx(alone, rel=1e-3), case


@pytest.mark.slow
def test_accelerate_launches_the_command_which_writes_and_prints_once(
    tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "run"
    words = tmp_path / "words.txt"
    words.write_text("church\nbanana\n")
    settings = ("steps=2", "batch_size=2", "trajectory_steps=2", "trajectories=1")
    result = launch(
        *("-m", "erasekit", "erase", "--concept", "garbage truck", "--model", str(tiny_folder)),
        *("--output", str(folder), "--no-measure", "--json", "--device", "cpu"),
        *(p for s in (*settings, f"concept_space={words}") for p in ("--set", s)),
        launcher=ACCELERATE,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    payload = json.loads(result.stdout)
    assert payload["edit"]["processes"] == 2
    assert payload["folder"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "adversary.safetensors", "edit.json", "edit.safetensors"),
        *("history.jsonl", "request.json"),
    ]
    assert len((folder / "history.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_an_error_is_said_once() -> None:
    result = launch(
        *("-m", "erasekit", "erase", "--concept", "a", "--method", "no-such-method"),
        launcher=TORCHRUN,
    )
    assert result.returncode != 0
    assert result.stderr.count("Unknown method 'no-such-method'") == 1
    assert result.stdout == ""

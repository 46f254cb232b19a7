"""Two CPU processes (gloo) that share a step's rows give the edit of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from erasekit.concepts import Erasure
from erasekit.models.tensor_files import load_tensors
from erasekit.testing import tiny_model
from erasekit.training.erase import erase

TOLERANCE = 1e-3
"""Distance of two edits by how far the weights moved: only the order of sums differs."""
CASES: dict[str, dict[str, Any]] = {
    "gumbel": {"keep_rows": 2},
    "pgd": {},
    "l2": {"keep_weight": 10},
    "random": {"latents_from": "current"},
}
"""Methods with settings; `l2` has a term beside the UNet, which must not be counted twice."""
STEPS = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3}
ERASED = ("garbage truck", "church")
WORKER = f"""
import os, sys, pathlib
from erasekit.concepts import Erasure
from erasekit.errors import ConfigError
from erasekit.models.tensor_files import save_tensors
from erasekit.testing import tiny_model
from erasekit.training.erase import erase
from erasekit.training.trainer import Callback

class Spoken(Callback):
    def on_start(self, step, total):
        print("started", flush=True)

folder, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
for method, settings in {CASES!r}.items():
    settings = {{**{STEPS!r}, **settings}}
    edit = erase(tiny_model(), Erasure.of(*{ERASED!r}), method, settings=settings,
                 folder=folder / method, callbacks=[Spoken()])
    assert edit.info["processes"] == 2
    losses = {{f"loss {{r['step']}}": __import__("torch").tensor(r["loss"]) for r in edit.history}}
    save_tensors(folder / f"{{method}}.{{rank}}.safetensors", {{**edit.tensors, **losses}})
try:
    erase(tiny_model(), "church", "none", settings={{**{STEPS!r}, "batch_size": 3}})
except ConfigError as error:
    print(error, flush=True)
"""


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes of `arguments`, on the CPU, as `accelerate launch` starts them."""
    options = ("--num_processes=2", "--num_machines=1", "--mixed_precision=no")
    more = ("--dynamo_backend=no", "--main_process_port=0", "--multi_gpu")
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options, *more, *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "COVERAGE_PROCESS_START": "",
        },
    )


@pytest.mark.slow
def test_two_processes_give_the_edit_of_one(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    result = launch(str(worker), str(tmp_path))
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("started") == len(CASES), "the main one alone calls back"
    assert result.stdout.count("2 processes can't share the 3 rows of a step evenly") == 2
    base = {name: p.detach() for name, p in tiny_model().unet.named_parameters()}
    for method, settings in CASES.items():
        first, second = (
            load_tensors(tmp_path / f"{method}.{rank}.safetensors")[0] for rank in "01"
        )
        assert all(torch.equal(first[name], value) for name, value in second.items()), method
        alone = erase(tiny_model(), Erasure.of(*ERASED), method, settings={**STEPS, **settings})
        apart = torch.cat([(first[n] - v).flatten() for n, v in alone.tensors.items()]).norm()
        moved = torch.cat([(base[n] - v).flatten() for n, v in alone.tensors.items()]).norm()
        assert apart < TOLERANCE * moved, method
        for record in alone.history:
            loss = float(first[f"loss {record['step']}"])
            assert loss == pytest.approx(record["loss"], rel=1e-3), method
        assert len((tmp_path / method / "history.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_accelerate_launches_the_command_which_writes_and_prints_once(
    tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "run"
    settings = ("steps=2", "batch_size=2", "trajectory_steps=2", "trajectories=1")
    result = launch(
        *("-m", "erasekit", "erase", "--concept", "garbage truck", "--method", "neutral"),
        *("--model", str(tiny_folder), "--device", "cpu"),
        *("--output", str(folder), "--no-measure", "--json"),
        *(p for s in settings for p in ("--set", s)),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    payload = json.loads(result.stdout)
    assert payload["edit"]["processes"] == 2
    assert payload["folder"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "edit.json", "edit.safetensors", "history.jsonl", "request.json")
    ]
    assert len((folder / "history.jsonl").read_text().splitlines()) == 2

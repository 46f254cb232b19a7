"""A run that was killed goes on to the edit of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from erasekit.concepts import Erasure
from erasekit.edits import load_edit
from erasekit.errors import EditError, Interrupted, OutputLostError
from erasekit.models.loading import load_model
from erasekit.plugin.registry import Registry
from erasekit.testing import tiny_model
from erasekit.training.checkpoint import CHECKPOINT, UNPROVEN, Checkpoint
from erasekit.training.erase import erase
from erasekit.training.run_folder import RunRequest, resumed_run
from erasekit.training.trainer import Callback

STEPS = 60
SETTINGS = {
    "steps": STEPS,
    "batch_size": 2,
    "trajectory_steps": 3,
    "trajectories": 1,
    "keep_trajectories": 1,
    "learning_rate": 1e-3,
    "checkpoint_every": 4,
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "erasekit", "erase", "--no-measure", "--json", *arguments]


@pytest.mark.slow
def test_kill_9_then_resume_gives_the_uninterrupted_edit(tmp_path: Path, tiny_folder: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("church\nbanana\nbus\n")
    settings = {**SETTINGS, "concept_space": str(words)}
    folder = tmp_path / "run"
    history = folder / "history.jsonl"
    with subprocess.Popen(
        command(
            *("--concept", "garbage truck", "--model", str(tiny_folder), "--device", "cpu"),
            *("--output", str(folder)),
            *(p for key, value in settings.items() for p in ("--set", f"{key}={value}")),
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        while run.poll() is None and not (
            (folder / CHECKPOINT).exists() and len(history.read_text().splitlines()) > 5
        ):
            time.sleep(0.005)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert not (folder / "edit.json").exists()
    assert 0 < Checkpoint.load(folder / CHECKPOINT).step < STEPS
    left = folder / ".erasekit-0000.safetensors"  # as a kill in the middle of a write leaves
    left.write_bytes(b"half a checkpoint")
    with history.open("a") as file:
        file.write('{"step": 99, "loss"')

    resumed = subprocess.run(command("--resume", str(folder)), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["folder"] == str(folder)
    found = load_edit(folder)
    whole = erase(
        load_model(str(tiny_folder), Registry()),
        Erasure.of("garbage truck"),
        "gumbel",
        settings=settings,
    )
    assert set(found.tensors) == set(whole.tensors)
    assert all(torch.equal(found.tensors[name], value) for name, value in whole.tensors.items())
    assert found.history == whole.history
    assert found.info["unet_passes"] == whole.info["unet_passes"]
    assert not whole.adversaries  # a search over words: its history names them
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "edit.json", "edit.safetensors"),
        *("history.jsonl", "request.json"),
    ]


class Signal(Callback):
    """Sends this process a signal after a step."""

    def __init__(self, number: int, step: int = 1) -> None:
        self.number, self.step = number, step

    def on_step(self, record) -> None:
        if record["step"] == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def usual_handlers():
    """As in an interactive shell; a job in the background ignores Ctrl-C."""
    before = [
        (signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler)),
        (signal.SIGTERM, signal.signal(signal.SIGTERM, signal.SIG_DFL)),
        (signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL)),
    ]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual_handlers")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_step_saves_and_sets_the_exit_code(
    tmp_path: Path, number: int, code: int
) -> None:
    with pytest.raises(Interrupted, match=r"Stopped at step 2 of 6, which is saved") as caught:
        erase(tiny_model(), "church", "none", folder=tmp_path, callbacks=[Signal(number)])
    assert caught.value.exit_code == code
    assert Checkpoint.load(tmp_path / CHECKPOINT).step == 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("usual_handlers")
def test_sigterm_after_ctrl_c_does_not_cut_the_step_short(tmp_path: Path) -> None:
    """A launcher sends both."""
    both = [Signal(signal.SIGINT), Signal(signal.SIGTERM), Signal(signal.SIGTERM)]
    with pytest.raises(Interrupted, match="which is saved"):
        erase(tiny_model(), "church", "none", folder=tmp_path, callbacks=both)


def request(folder: Path) -> None:
    RunRequest("tiny", "0" * 64, "none", Erasure.of("church"), 0, {}).save(folder)


def stopped(folder: Path) -> None:
    with pytest.raises(Interrupted):
        erase(tiny_model(), "church", "none", folder=folder, callbacks=[Interrupt()])
    request(folder)


class Interrupt(Callback):
    def on_step(self, record) -> None:
        if record["step"] == 2:
            raise KeyboardInterrupt


def test_a_run_killed_before_its_first_checkpoint_was_proven_goes_on_from_it(
    tmp_path: Path,
) -> None:
    stopped(tmp_path)
    (tmp_path / CHECKPOINT).rename(tmp_path / UNPROVEN)
    with resumed_run(tmp_path) as (_, _, checkpoint):
        assert checkpoint
    steps = [record["step"] for record in checkpoint.history]
    assert (checkpoint.step, steps) == (3, [0, 1, 2])
    edit = erase(tiny_model(), "church", "none", folder=tmp_path, resume=checkpoint)
    whole = erase(tiny_model(), "church", "none")
    assert all(torch.equal(edit.tensors[name], value) for name, value in whole.tensors.items())


def test_a_history_that_lacks_steps_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    (tmp_path / "history.jsonl").write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(EditError, match="lacks some of the 3 steps"):
        resumed_run(tmp_path).__enter__()


def test_a_run_never_has_more_than_two_checkpoints_on_disk(tmp_path: Path) -> None:
    seen: list[int] = []

    class Count(Callback):
        def on_step(self, record) -> None:
            files = [p for p in tmp_path.iterdir() if p.suffix == ".safetensors"]
            seen.append(sum(p.stat().st_size for p in files))

    edit = erase(
        tiny_model(),
        "church",
        "none",
        settings={"steps": 8, "checkpoint_every": 1},
        folder=tmp_path,
        callbacks=[Count()],
    )
    trained = sum(value.nbytes for value in edit.tensors.values())
    assert max(seen) < 2 * 3 * trained * 1.2  # weights and two moments each, and names


@pytest.mark.parametrize("by", ["nothing", "a file", "another folder"])
def test_a_folder_that_is_lost_under_a_run_is_said(tmp_path: Path, by: str) -> None:
    folder = tmp_path / "run"

    class Remove(Callback):
        def on_step(self, record) -> None:
            if record["step"] == 2:
                shutil.rmtree(folder)
                if by == "a file":
                    folder.write_text("")
                elif by == "another folder":
                    folder.mkdir()

    settings = {"steps": 6, "checkpoint_every": 1}
    with pytest.raises(OutputLostError, match="removed or replaced while a run") as caught:
        erase(
            *(tiny_model(), "church", "none"),
            settings=settings,
            folder=folder,
            callbacks=[Remove()],
        )
    assert caught.value.exit_code == 1
    assert not folder.is_dir() or not list(folder.iterdir())

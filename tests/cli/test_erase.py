"""`erasekit erase`: what it takes, what it leaves, and what it never destroys."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from erasekit.edits import load_edit
from erasekit.files import sole_writer
from erasekit.models.loading import LoadedModel
from erasekit.plugin.descriptors import ModelConcept

SMALL = ("--set", "steps=1", "--set", "trajectory_steps=2", "--set", "trajectories=1")


@pytest.fixture
def erase(run, tiny_folder: Path) -> Callable[..., Any]:
    """`erase("-o", folder)`: one step of `neutral` on the tiny model, not measured."""

    def do(*more: object, concept: str | None = "garbage truck", measure: bool = False) -> Any:
        named = () if concept is None else ("--concept", concept)
        unmeasured = () if measure else ("--no-measure",)
        return run(
            *("erase", *named, "--method", "neutral", "--model", tiny_folder, "--device", "cpu"),
            *(*SMALL, *unmeasured, *more),
        )

    return do


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_precision_and_memory_are_taken_and_said(erase, tmp_path: Path) -> None:
    result = erase("--precision", "bf16", "--max-memory", 3, "--json", "-o", tmp_path / "run")
    assert result.code == 0, result.err
    config = result.json["edit"]["config"]
    assert (config["precision"], config["max_memory"]) == ("bf16", 3.0)
    assert "of 3 are needed; nothing had to change" in result.sentence
    assert result.json["edit"]["device"] == "cpu"
    tensors = load_edit(tmp_path / "run").tensors
    assert {value.dtype for value in tensors.values()} == {torch.float32}


def test_a_shipped_recipe_goes_by_its_name(erase, tmp_path: Path) -> None:
    result = erase("--config", "published", "--json", "-o", tmp_path / "run")
    assert result.code == 0, result.err
    config = result.json["edit"]["config"]
    assert (config["loss_space"], config["timesteps"], config["steps"]) == ("z0", "bin", 1)
    result = erase("--config", "slow", "-o", tmp_path / "again")
    assert result.code == 2
    assert "The recipe 'slow' can't be read" in result.sentence
    assert "Shipped ones are fast, published." in result.sentence


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--precision", "fp8"), "'fp8' is not one of 'fp32', 'bf16', 'fp16'"),
        (("--device", "tpu"), "'tpu' is not one of 'auto', 'cpu', 'cuda', 'mps'"),
        (("--kind", "person"), "'person' is not one of 'object', 'style'"),
        (("--max-memory", "0.0001"), "--max-memory is 0.0001"),
        (("--set", "compile_unet=foo"), "compile_unet='foo' is no backend of torch.compile"),
        (("--set", "learning_rate=1e308"), "learning_rate (now 1e+308)"),
        (("--config", "~nobody-here/x.toml"), "~nobody-here/x.toml"),
        (("--output", "/proc/x"), "'/proc/x' can't be written"),
    ],
)
def test_what_can_t_be_is_one_sentence_and_leaves_no_folder(
    erase, tmp_path: Path, more: tuple[str, str], sentence: str
) -> None:
    result = erase("--output", tmp_path / "run", *more)
    assert result.code == 2
    assert sentence in result.sentence
    assert not (tmp_path / "run").exists()


def test_concepts_are_arguments_or_options(erase, tmp_path: Path) -> None:
    result = erase("church", "--json", "-o", tmp_path / "run")
    assert result.json["edit"]["concepts"] == ["church", "garbage truck"]
    alone = erase("a bus", "--json", "-o", tmp_path / "alone", concept=None)
    assert alone.json["edit"]["concepts"] == ["a bus"]
    none = erase("-o", tmp_path / "none", concept=None)
    assert none.code == 2
    assert "--concept" in none.sentence


def test_a_kind_that_is_given_is_given(
    erase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ModelConcept("nudity", "explicit", "people", "held-out")
    monkeypatch.setattr(LoadedModel, "known_concept", lambda self, text: known)
    kinds = []
    for number, more in enumerate([(), ("--kind", "object"), ("--kind", "style")]):
        folder = tmp_path / str(number)
        assert erase("-o", folder, *more, concept="nudity").code == 0
        request = json.loads((folder / "request.json").read_text())
        kinds.append(request["erasure"]["erased"][0]["kind"])
    assert kinds == ["explicit", "object", "style"]


def test_without_a_terminal_progress_is_said_in_lines(
    erase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erasekit.cli.console.HEARTBEAT", 0.0)
    kept = ("--set", "latents_from=frozen", "--set", "timesteps=solver")
    result = erase("-o", tmp_path / "run", "--set", "steps=3", *kept)
    assert "Preparing: 0, sampling 1 trajectories of the erased concepts" in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("Erasing: 2 of 3")]
    assert lines
    assert all(", loss 0." in line or ", loss 1." in line for line in lines)
    assert any(line.endswith("s left") for line in lines)


def test_a_run_says_what_to_type_next(erase, tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    result = erase("-o", folder)
    assert f"erasekit generate --edit '{folder}' --prompt 'garbage truck'" in result.out
    assert f"erasekit trace '{folder}'" in result.out


def test_a_failing_overwrite_leaves_the_run_that_was_there(erase, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert erase("-o", folder).code == 0
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    failed = erase("-o", folder, "--overwrite", "--set", "learning_rate=1e308", "--set", "steps=3")
    assert failed.code == 2
    assert contents(folder) == before
    refused = erase("-o", folder)
    assert "add --overwrite" in refused.sentence
    assert contents(folder) == before
    assert erase("-o", folder, "--overwrite", "--seed", 1).code == 0
    after = contents(folder)
    assert set(after) == set(before)
    assert after["notes.txt"] == b"mine"
    assert after["edit.safetensors"] != before["edit.safetensors"]


def test_overwrite_refuses_what_erasekit_did_not_make(erase, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("written by hand")
    result = erase("-o", tmp_path, "--overwrite")
    assert result.code == 2
    assert "erasekit did not make it" in result.sentence
    assert contents(tmp_path) == {"README.md": b"written by hand"}


def test_two_runs_in_one_folder_at_once_are_refused(erase, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with sole_writer(folder):
        second = erase("-o", folder)
    assert second.code == 2
    assert "Another process is writing" in second.sentence
    assert contents(folder) == {}
    assert erase("-o", folder).code == 0
    with sole_writer(folder):
        assert "Another process is writing" in erase("--resume", folder).sentence


@pytest.fixture
def signals() -> Iterator[None]:
    """Handlers as in an interactive shell; a job in the background ignores Ctrl-C."""
    own = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.icons
@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_stopped_while_measuring_the_edit_is_there_and_can_be_measured(
    erase, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    from erasekit.bench import images

    folder, real = tmp_path / "run", images.generate

    def stopping(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(images, "generate", stopping)
        stopped = erase("-o", folder, "--model", "icons", measure=True)
    assert stopped.code == code
    assert f"Measure it with: erasekit erase --resume {folder}" in stopped.sentence
    assert {"README.md", "edit.safetensors", "edit.json"} <= set(contents(folder))
    assert "measures.json" not in contents(folder)
    edit = contents(folder)["edit.safetensors"]
    if number != signal.SIGINT:
        return
    measured = run("erase", "--resume", folder, "--json")
    assert measured.code == 0, measured.err
    assert measured.json["measures"]["kept"]
    assert contents(folder)["edit.safetensors"] == edit
    again = run("erase", "--resume", folder)
    assert again.code == 2
    assert "is finished; there is nothing to resume" in again.sentence


@pytest.mark.usefixtures("signals")
def test_an_interrupted_overwrite_goes_on_over_the_old_run(
    erase, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erasekit.methods.preservation.naive import NeutralPreservation

    folder, real = tmp_path / "run", NeutralPreservation.keep
    assert erase("-o", folder).code == 0
    before = contents(folder)

    def press(self: Any, batch: Any) -> Any:
        if batch.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(NeutralPreservation, "keep", press)
        stopped = erase("-o", folder, "--overwrite", "--set", "steps=5")
    assert stopped.code == 130
    assert "Stopped at step 3 of 5, which is saved" in stopped.sentence
    old = {name: data for name, data in contents(folder).items() if "unfinished" not in name}
    assert old == before
    resumed = run("erase", "--resume", folder, "--no-measure", "--json")
    assert resumed.code == 0, resumed.err
    assert set(contents(folder)) == set(before)
    assert erase("-o", tmp_path / "whole", "--set", "steps=5").code == 0
    found, whole = load_edit(folder), load_edit(tmp_path / "whole")
    assert all(torch.equal(found.tensors[name], v) for name, v in whole.tensors.items())


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"model": 1, "base_hash": "a", "method": "none", "erasure": {}, "seed": 0}',
        '{"model": "a", "base_hash": "a", "method": "none", "erasure": [], "seed": "0"}',
        '{"model": "a", "base_hash": "a", "method": "none", "erasure": {"erased": [{"text": "", '
        '"kind": "object", "aliases": []}], "neutral": "", "keep": []}, "seed": 0}',
        '{"model": "a", "seed": ' + "9" * 5000 + "}",
    ],
)
def test_a_request_of_a_wrong_type_is_damaged(run, tmp_path: Path, text: str) -> None:
    (tmp_path / "request.json").write_text(text)
    result = run("erase", "--resume", tmp_path)
    assert result.code == 2
    assert "request.json" in result.sentence
    assert "damaged" in result.sentence


def test_a_folder_without_a_run_is_not_resumed_and_not_made(run, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        result = run("erase", "--resume", path)
        assert result.code == 2
        assert "holds no run to resume" in result.sentence
    assert not (tmp_path / "nothing").exists()


def test_only_the_first_of_several_processes_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from erasekit.cli.console import print_error, print_json, print_note, stdout

    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, heard in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        print_error("an error")
        print_note("a note")
        print_json({})
        stdout().print("a result")
        captured = capsys.readouterr()
        assert bool(captured.out) == bool(captured.err) == heard


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seconds", 3),
        ("seconds", {"total": "long"}),
        ("unet_passes", []),
        ("config", None),
        ("concepts", "church"),
    ],
)
def test_what_is_said_of_a_run_in_a_wrong_type_is_damaged(
    erase, run, tmp_path: Path, key: str, value: Any
) -> None:
    folder = tmp_path / "run"
    assert erase("-o", folder).code == 0
    info = json.loads((folder / "edit.json").read_text())
    (folder / "edit.json").write_text(json.dumps({**info, key: value}))
    result = run("erase", "--resume", folder)
    assert result.code == 2
    assert "edit.json" in result.sentence
    assert "damaged" in result.sentence

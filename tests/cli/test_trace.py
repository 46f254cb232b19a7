"""`trace`: what a run preserved along the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from erasekit.cli.trace import PLOT, STRIP
from erasekit.edits import load_edit
from erasekit.models.loading import LoadedModel
from erasekit.training.run_folder import adversary_snapshots
from tests.cli.conftest import SMALL, WORDS

Run = Callable[..., Any]
MakeRun = Callable[..., Path]


@pytest.mark.parametrize("method", ["gumbel", "pgd", "random", "nearest"])
def test_an_adversarial_run_is_a_table_curves_and_a_strip(
    run: Run, make_run: MakeRun, tmp_path: Path, method: str
) -> None:
    folder = make_run(method, "garbage truck")
    traced = run("trace", folder, "--rows", 3, "--pictures", 4, "-o", tmp_path, "--json").json
    assert traced["schema"] == 1
    assert (traced["method"], traced["concepts"]) == (method, ["garbage truck"])
    assert traced["steps"] == SMALL["steps"]
    assert [record["step"] for record in traced["history"]] == [0, 2, 5]
    assert {use["word"] for use in traced["adversaries"]} <= set(WORDS)
    assert (traced["plot"], traced["strip"]) == (str(tmp_path / PLOT), str(tmp_path / STRIP))
    with Image.open(tmp_path / STRIP) as strip:
        assert strip.width > 5 * 96
    table = run("trace", folder, "--pictures", 0, "-o", tmp_path).out
    assert f"{method}: garbage truck" in table


def test_several_erased_concepts_have_a_row_each(
    run: Run, make_run: MakeRun, tmp_path: Path
) -> None:
    folder = make_run("pgd", "church", "bus")
    assert run("trace", folder, "-o", tmp_path).code == 0
    one, two = tmp_path / "one", tmp_path
    assert run("trace", make_run("pgd", "garbage truck"), "-o", one).code == 0
    with Image.open(one / STRIP) as single, Image.open(two / STRIP) as double:
        assert double.height > 1.5 * single.height


def test_a_run_without_adversary_has_no_strip(run: Run, make_run: MakeRun, tmp_path: Path) -> None:
    result = run("trace", make_run("l2", "church"), "-o", tmp_path, "--json")
    assert result.json["strip"] is None
    assert result.json["adversaries"] == []
    assert "no adversarial concept" in result.sentence
    assert [path.name for path in tmp_path.iterdir()] == [PLOT]


def test_the_pictures_go_into_the_run_by_default(
    run: Run, make_run: MakeRun, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in make_run("random", "garbage truck").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert run("trace", copy).code == 0
    assert {PLOT, STRIP} <= {path.name for path in copy.iterdir()}


def test_bad_input_is_one_sentence(run: Run, make_run: MakeRun, tmp_path: Path) -> None:
    assert "no run folder" in run("trace", tmp_path / "nowhere").sentence
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in make_run("random", "garbage truck").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "history.jsonl").write_text("{", encoding="utf-8")
    assert "history.jsonl' is damaged" in run("trace", copy).sentence


def test_snapshots_of_embeddings_are_those_the_run_kept(
    make_run: MakeRun, tiny_model: LoadedModel
) -> None:
    folder = make_run("pgd", "garbage truck")
    snapshots = adversary_snapshots(load_edit(folder), folder, tiny_model, 3)
    assert [s.step for s in snapshots] == [0, 2, 5]
    assert all(s.caption.startswith("near ") for s in snapshots)
    erased = tiny_model.family.embed_prompts(["garbage truck"])[0]
    distances = [float((s.prompt_embeds - erased).norm()) for s in snapshots]
    assert distances[0] == 0
    assert distances == sorted(distances)


@pytest.mark.parametrize("method", ["random", "gumbel"])
def test_snapshots_of_words_are_the_words_drawn(
    make_run: MakeRun, tiny_model: LoadedModel, method: str
) -> None:
    folder = make_run(method, "garbage truck")
    edit = load_edit(folder)
    for snapshot in adversary_snapshots(edit, folder, tiny_model, 99):
        chosen = edit.history[snapshot.step]["adversary"][0]["concept"].split(", ")
        assert snapshot.caption == chosen[0]
        expected = tiny_model.family.embed_prompts([chosen[0]])[0]
        assert float((snapshot.prompt_embeds - expected).abs().max()) < 1e-5


def test_one_snapshot_is_the_last(make_run: MakeRun, tiny_model: LoadedModel) -> None:
    folder = make_run("random", "garbage truck")
    (only,) = adversary_snapshots(load_edit(folder), folder, tiny_model, 1)
    assert only.step == SMALL["steps"] - 1


def test_the_history_lines_are_what_the_interface_says(make_run: MakeRun) -> None:
    lines = (make_run("gumbel", "church") / "history.jsonl").read_text(encoding="utf-8")
    for number, line in enumerate(lines.splitlines()):
        record = json.loads(line)
        assert set(record) == {
            *("step", "loss", "erase_loss", "preserve_loss", "timestep", "adversary")
        }
        assert record["step"] == number
        (adversary,) = record["adversary"]
        keys = {"erased", "concept", "entropy", "uniform", "shift", "nearest"}
        assert set(adversary) == keys


def test_where_harm_was_measured_its_ranks_are_shown(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = ["erase", "-c", "church", "--method", "gumbel", "--model", tiny_folder, "-o", folder]
    settings = {**SMALL, "harm_every": 2, "concept_space": "vocabulary", "learning_rate": 1e-3}
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    assert run(*command, "--no-measure").code == 0
    traced = run("trace", folder, "--pictures", 0, "-o", tmp_path, "--json").json
    assert [row["step"] for row in traced["ranks"]] == [2, 4]
    assert all(0 <= row["rank"] <= 1 for row in traced["ranks"])
    text = run("trace", folder, "--pictures", 0, "-o", tmp_path).out
    assert "of R, harmed more" in text
    assert f"{100 * traced['ranks'][0]['rank']:.0f} %" in text

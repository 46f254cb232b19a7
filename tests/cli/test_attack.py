"""`erasekit attack` and `erasekit attacks`, as a user runs them, on the tiny model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from erasekit.concepts import Erasure
from erasekit.edits import load_edit
from erasekit.testing.attacks import pictures_folder
from erasekit.training.run_folder import RunRequest, new_run, save_run
from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

FEW = ("--set", "pictures=1", "--set", "steps=1", "--images-per-concept", 2)


def test_a_run_is_attacked_and_what_is_there_is_read(
    run, make_run, tiny_scorer_folder: Path, tmp_path: Path
) -> None:
    scorer = ("--scorer", f"local-dir:{tiny_scorer_folder}", "--top", 12)
    pictures = ("--pictures", pictures_folder())
    out = ("--output", tmp_path / "found")
    asked = (make_run("none", "church"), "-a", "p4d-n", *FEW, *scorer, *pictures, *out)
    done = run("attack", *asked, "--json")
    assert done.code == 0, done.err
    assert [one["attack"] for one in done.json["attacks"]] == ["random", "seed-search", "p4d-n"]
    for one in done.json["attacks"]:
        assert one["unerased"]["n"] == one["success"]["n"] == 2
        assert one["success"]["value"] >= one["before"]["value"]
        shown = [target["success"] for target in one["targets"]]
        assert one["success"]["value"] == sum(shown) / 2
        (folder,) = (tmp_path / "found").glob(f"{one['attack']}-*")
        assert sorted(p.name for p in folder.iterdir()) == [
            "pictures.png",
            "prompts.csv",
            "result.json",
        ]
        found = [t["found"] for t in one["targets"] if t["found"]]
        rows = list(csv.DictReader((folder / "prompts.csv").read_text().splitlines()))
        assert [row["prompt"] for row in rows] == found
    assert (tmp_path / "found" / "attacks.png").is_file()
    again = run("attack", *asked, "--json")
    assert again.json == done.json  # seconds too: nothing was computed
    shown = run("attack", *asked)
    for words in ("un-erased", "no attack", "p4d-n", "success", "95 % interval", "attacks.png"):
        assert words in shown.out
    assert max(map(len, shown.out.partition("Picture")[0].splitlines())) <= 80


def test_results_go_into_the_run_and_prompts_to_another(
    run, make_run, tiny_scorer_folder: Path, tmp_path: Path
) -> None:
    run_folder = make_run("none", "bus")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,seed\na red bus,0\n", encoding="utf-8")
    asked = ("attack", run_folder, "--attack", "prompts", "--no-controls", *FEW[:2])
    scorer = ("--scorer", f"local-dir:{tiny_scorer_folder}")
    done = run(*asked, "--prompts", prompts, *scorer, "--images-per-concept", 1)
    assert done.code == 0, done.err
    (folder,) = (run_folder / "attacks").glob("prompts-*")
    assert (folder / "result.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--attack", "prompts"), "--prompts FILE.csv"),
        (("--attack", "random", "--prompts", "x.csv"), "--prompts is for the attack 'prompts'"),
        (("--attack", ","), "--attack names none"),
        (("--attack", "p4d"), "did you mean 'p4d-"),
        (("--attack", "random", "--set", "steps"), "is not key=value"),
        (("--attack", "relearn", "--pictures", "nowhere"), "no folder 'nowhere'"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    run, make_run, tiny_scorer_folder: Path, tmp_path: Path, arguments, words: str
) -> None:
    out = tmp_path / "found"
    scorer = ("--scorer", f"local-dir:{tiny_scorer_folder}")
    run_folder = make_run("none", "church")
    done = run("attack", run_folder, "--no-controls", *scorer, "--output", out, *arguments)
    assert done.code == 2
    assert words in done.sentence
    assert done.out == ""
    assert not out.exists()


def test_prompts_without_the_column_are_refused(run, make_run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("text\nx\n", encoding="utf-8")
    done = run("attack", make_run("none", "church"), "--attack", "prompts", "--prompts", bad)
    assert done.code == 2
    assert "has no column 'prompt'" in done.sentence
    neither = run("attack")
    assert neither.code == 2
    assert "--concept" in neither.sentence


def test_attacks_are_listed_and_explained(run) -> None:
    listed = run("attacks", "--json").json["attacks"]
    assert {"random", "unlearndiffatk", "relearn"} <= {one["name"] for one in listed}
    shown = run("attacks", "show", "p4d-k", "--json").json
    assert shown["attack"]["needs"] == ["tokens", "pictures"]
    settings = {one["name"]: one for one in shown["settings"]}
    assert settings["pictures"]["budgets"] == {"small": 6, "published": 50}
    assert settings["every"]["default"] == 3
    assert "ICML 2024" in run("attacks", "show", "p4d-k").out
    assert "unlearndiffatk" in run("attacks").out


def test_an_overwritten_run_loses_its_attacks(make_run, tmp_path: Path) -> None:
    edit = load_edit(make_run("none", "church"))
    path = tmp_path / "run"
    save_run(edit, path)
    (path / "attacks" / "random-12345678").mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    request = RunRequest("tiny", edit.base_hash, "none", Erasure.of("church"), 0)
    with new_run(path, request, overwrite=True) as folder:
        folder.finish(edit)
    assert not (path / "attacks").exists()
    assert (path / "notes.txt").is_file()

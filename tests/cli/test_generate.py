"""`generate`: images on disk, from the base model or an edit of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from erasekit.cli.generate import _stems
from erasekit.cli.options import chosen_model
from erasekit.edits import Edit, load_edit

Run = Callable[..., Any]

STEPS = ("--steps", 2)


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in an empty working folder, with no model named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ERASEKIT_MODEL", raising=False)


def test_an_image_for_each_prompt_and_seed_and_a_grid(run: Run, tiny_folder: Path) -> None:
    result = run(
        *("generate", "--model", tiny_folder, "--prompt", "a church", "--prompt", "bus"),
        *("--seed", 5, "--num", 2, "--output", "out", "--json", *STEPS),
    )
    assert result.code == 0, result.err
    names = [Path(image["path"]).name for image in result.json["images"]]
    assert names == [
        "a-church-seed-0005.png",
        "a-church-seed-0006.png",
        "bus-seed-0005.png",
        "bus-seed-0006.png",
    ]
    assert sorted(p.name for p in Path("out").iterdir()) == [*sorted(names), "grid.png"]
    assert pixels(result.json["images"][0]["path"]).shape == (16, 16, 3)
    first, second = (pixels(image["path"]) for image in result.json["images"][:2])
    assert (first != second).any()
    assert {key: result.json[key] for key in ("schema", "edit", "steps", "guidance")} == {
        "schema": 1,
        "edit": None,
        "steps": 2,
        "guidance": 7.5,
    }


def test_the_same_seed_draws_the_same_image_in_any_batch(run: Run, tiny_folder: Path) -> None:
    common = ("generate", "--model", tiny_folder, "-p", "church", *STEPS)
    run(*common, "--num", 4, "--output", "four")
    run(*common, "--num", 1, "--seed", 3, "--output", "one")
    name = "church-seed-0003.png"
    difference = pixels(f"four/{name}").astype(int) - pixels(f"one/{name}")
    assert np.abs(difference).max() <= 1


def test_without_output_a_new_numbered_folder_each_time(run: Run, tiny_folder: Path) -> None:
    for number in (1, 2):
        result = run("generate", "--model", tiny_folder, "-p", "bus", "-n", 1, *STEPS)
        assert f"runs/images-bus-00{number}/grid.png" in result.out
        assert Path(f"runs/images-bus-00{number}/grid.png").is_file()


def test_an_edit_changes_the_images_and_brings_its_model(
    run: Run, make_run: Callable[..., Path], tiny_folder: Path
) -> None:
    folder = make_run("l2", "church")
    common = ("generate", "-p", "church", "-n", 1, "--json", *STEPS)
    edited = run(*common, "--edit", folder).json
    assert (edited["edit"], edited["model"]) == (str(folder), str(tiny_folder))
    edit = load_edit(folder)
    with_nothing = Edit({}, edit.info)
    with_nothing.save("empty")
    empty = run(*common, "--edit", "empty").json
    base = run(*common, "--model", tiny_folder).json
    before, same = pixels(base["images"][0]["path"]), pixels(empty["images"][0]["path"])
    assert (before == same).all()


def test_an_edit_of_another_model_is_refused_naming_both_hashes(
    run: Run, make_run: Callable[..., Path], other_tiny_folder: Path
) -> None:
    folder = make_run("l2", "church")
    command = ("generate", "-p", "x", "-n", 1, "--edit", folder, "--model", other_tiny_folder)
    result = run(*command, *STEPS)
    assert result.code == 2
    assert load_edit(folder).base_hash[:16] in result.sentence
    assert "--force" in result.sentence
    assert not Path("runs").exists()
    assert run(*command, *STEPS, "--force").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "iconz"), "did you mean 'icons'"),
        (("--model", "./nowhere"), "no folder './nowhere'"),
        (("--model", "acme/nothing"), "'acme/nothing' is not in the local cache"),
        (("--edit", "nowhere"), "no run folder 'nowhere'"),
        (("--output", "full"), "--overwrite"),
        (("--prompt", "church " * 40), "tokens long"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    run: Run, tiny_folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("", encoding="utf-8")
    model = () if "--model" in arguments else ("--model", tiny_folder)
    result = run("generate", "-p", "church", "-n", 1, *STEPS, *model, *arguments)
    assert result.code == 2
    assert words in result.sentence
    assert [p.name for p in Path().rglob("*")] == ["full", "file"]


@pytest.mark.parametrize("option", ["--num", "--steps", "--batch-size"])
def test_numbers_that_make_no_sense_are_refused(run: Run, option: str) -> None:
    result = run("generate", "-p", "church", option, 0)
    assert result.code == 2
    assert option in result.err


def test_overwrite_writes_into_a_full_folder_that_it_made(run: Run, tiny_folder: Path) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("", encoding="utf-8")
    common = ("generate", "--model", tiny_folder, "-p", "bus", "-n", 1, "-o", "full", *STEPS)
    refused = run(*common, "--overwrite")
    assert (refused.code, "erasekit did not make it" in refused.sentence) == (2, True)
    Path("full/grid.png").write_bytes(b"")
    assert run(*common, "--overwrite").code == 0
    assert {p.name for p in Path("full").iterdir()} == {"file", "bus-seed-0000.png", "grid.png"}


def test_which_model_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = Edit({}, {"base_model": {"id": "base", "hash": "0"}})
    assert chosen_model(None) == "icons"
    monkeypatch.setenv("ERASEKIT_MODEL", "other")
    assert chosen_model(None) == "other"
    assert chosen_model(None, edit) == "base"
    assert chosen_model("named", edit) == "named"


def test_prompts_that_shorten_alike_keep_their_own_files() -> None:
    assert _stems(["A bus", "a-bus", "a bus!"]) == {
        "A bus": "a-bus",
        "a-bus": "a-bus-2",
        "a bus!": "a-bus-3",
    }


def test_a_prompt_that_is_too_long_is_refused_or_cut_by_request(
    run: Run, tiny_folder: Path
) -> None:
    text = "church castle truck " * 10
    common = ("generate", "--model", tiny_folder, "-p", text, "--num", 1, "--json", *STEPS)
    refused = run(*common)
    assert refused.code == 2
    assert "generate --truncate cuts it" in refused.err
    cut = run(*common, "--truncate")
    assert cut.code == 0, cut.err
    assert "The last 16 tokens" in cut.err
    assert len(cut.json["images"]) == 1

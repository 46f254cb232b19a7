"""`erasekit observe`, as a user runs it, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

SMALL = ["--set", "steps=2", "--set", "trajectory_steps=2", "--set", "trajectories=1"]
FILES = {"results.json", "table.md", "figure.png", "figure.svg", "store"}


@pytest.fixture
def observe(run, tmp_path: Path, tiny_folder: Path, tiny_scorer_folder: Path, monkeypatch):
    """Runs the command in an empty folder; gives how it ended."""
    monkeypatch.chdir(tmp_path)
    base = ["--model", str(tiny_folder), "--scorer", f"local-dir:{tiny_scorer_folder}"]
    base += ["--images-per-concept", "2", "--sampling-steps", "2"]

    def do(observation: str, *arguments: str, code: int = 0):
        more = [] if observation == "spectrum" else ["--seeds", "1", *SMALL]
        done = run("observe", observation, *base, *more, *arguments)
        assert done.code == code, done.err
        return done

    return do


def store_of(folder: Path) -> dict[str, int]:
    """When each file was written, less `sweeps`, which say when a sweep was last asked for."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "sweeps"]
    return {str(p): p.stat().st_mtime_ns for p in files}


def check_twice(observe, tmp_path: Path, observation: str, *arguments: str) -> dict:
    first = observe(observation, *arguments, "--json").json
    assert first["schema"] == 1
    assert first["observation"] == observation
    assert first["verdict"] in ("held", "not held", "undecided")
    (folder,) = (tmp_path / "runs").glob(f"observe-{observation}-*")
    assert {p.name for p in folder.iterdir()} == FILES
    before = store_of(folder / "store")
    again = observe(observation, *arguments)
    assert store_of(folder / "store") == before
    assert " ".join(first["sentence"].split()) in " ".join(again.out.split())
    assert first["sentence"] in (folder / "table.md").read_text("utf-8")
    assert first["how"]["command"] in (folder / "table.md").read_text("utf-8")
    return first


def test_impact(observe, tmp_path: Path) -> None:
    data = check_twice(
        observe,
        tmp_path,
        "impact",
        "--erase",
        "church",
        "--erase",
        "bus+car",
        "--related",
        "church=tench",
    )
    assert [e["erased"] for e in data["erasures"]] == ["church", "bus+car"]
    assert data["erasures"][0]["related"] == ["tench"]
    assert {"road", "banana"} < {c["concept"] for c in data["concepts"]}
    assert data["how"]["settings"]["none"]["steps"] == 2


def test_preserve(observe, tmp_path: Path) -> None:
    data = check_twice(
        observe,
        tmp_path,
        "preserve",
        "--erase",
        "garbage truck",
        "--keep",
        "road",
        "--keep",
        "banana",
        "--keep",
        "a photo",
        "--related",
        "road",
    )
    assert [r["nature"] for r in data["runs"]] == ["none", "related", "unrelated", "neutral"]
    assert not {"road", "banana"} & set(data["concepts"])
    assert set(data["how"]["settings"]) == {"none", "random"}


def test_spectrum(observe, tmp_path: Path, make_run) -> None:
    words = tmp_path / "words.txt"
    words.write_text("bus\ncar\nroad\nbanana\ncastle\n", encoding="utf-8")
    data = check_twice(
        observe,
        tmp_path,
        "spectrum",
        "--edit",
        str(make_run("none", "church")),
        "--words",
        str(words),
        "--probes",
        "2",
        "--sample",
        "3",
        "--neutral",
        "",
        "--neutral",
        "a photo",
    )
    assert sorted(data["words"]) == ["banana", "bus", "car", "castle", "road"]
    assert [w["word"] for w in data["neutral"]] == ["", "a photo"]
    assert data["how"]["edit"]["method"] == "none"


def test_the_suite_may_be_a_file(observe, tmp_path: Path) -> None:
    concepts = "".join(f'[[concepts]]\nname = "{n}"\n' for n in ("church", "bus", "car", "road"))
    text = 'name = "mine"\nversion = "1"\ncases = [{erase = ["church"]}]\n' + concepts
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    command = ["impact", "--suite", "mine.toml", "--erase", "church", "--erase", "bus"]
    related = ["--related", "church=car", "--related", "bus=car"]
    data = observe(*command, *related, "--json").json
    assert (data["how"]["suite"], data["how"]["suite_version"]) == ("mine", "1")
    assert {c["concept"] for c in data["concepts"]} == {"car", "road"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["impact", "--erase", "church"], "--erase twice"),
        (["impact", "--erase", "church", "--erase", "bus", "--method", "gumble"], "gumbel"),
        (["impact", "--erase", "church", "--erase", "bus", "--related", "x=road"], "--related"),
        (["impact", "--erase", "church", "--erase", "bus", "--suite", "no.toml"], "'no.toml'"),
        (["impact", "--erase", "bus+car", "--erase", "Car + bus"], "stands twice"),
        (["preserve", "--erase", "church", "--keep", "road"], "--keep twice"),
        (["preserve", "--erase", "church", "--keep", "road", "--keep", "church"], "both erased"),
        (
            ["preserve", "--erase", "church", "--keep", "road", "--keep", "bus", "--method", "l2"],
            "keeps no words",
        ),
        (["spectrum", "--edit", "nowhere"], "no run folder"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    observe, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = observe(*arguments, code=2)
    assert words in done.err
    assert done.err.count("Error:") == 1
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(observe, tmp_path: Path) -> None:
    both = ["--erase", "church", "--erase", "bus", "--output", "."]
    (tmp_path / "results.json").write_text('{"observation": "preserve"}')
    assert "another observation" in observe("impact", *both, code=2).err
    (tmp_path / "mine.txt").write_text("thesis")
    assert "not empty" in observe("impact", *both, code=2).err
    assert {p.name for p in tmp_path.iterdir()} == {"mine.txt", "results.json"}

"""`erasekit report`, on what `bench` and `erase` really leave."""

from __future__ import annotations

import json
import os
import re
from html import unescape
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]


def table(html: str, name: str) -> str:
    found = re.search(rf'<table id="{name}".*?</table>', html, re.S)
    assert found, f"there is no table {name!r}"
    return found[0]


def test_a_benchmark_and_an_erasure_on_one_page(
    run, make_run, tmp_path: Path, tiny_folder: Path, tiny_scorer_folder: Path
) -> None:
    store, folder, page = tmp_path / "store", make_run("gumbel", "church"), tmp_path / "out.html"
    done = run(
        *("bench", "--model", tiny_folder, "--scorer", f"local-dir:{tiny_scorer_folder}"),
        *("--images-per-concept", "1", "--sampling-steps", "2", "--seeds", "1"),
        *("--methods", "none,l2", "--concepts", "church,bus+car", "--output", store),
        *("--set", "steps=2", "--set", "trajectory_steps=2", "--set", "trajectories=1"),
    )
    assert done.code == 0, done.err
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    done = run("report", store, folder, "--output", page, "--json")
    assert done.code == 0, done.err
    data = done.json
    assert (data["schema"], data["report"], data["left_out"]) == (1, str(page), 0)
    assert data["bytes"] == page.stat().st_size
    html = page.read_text(encoding="utf-8")
    assert html.count("<img ") == data["images"] > 20
    numbers = json.loads((store / "bench.json").read_text(encoding="utf-8"))
    shown = table(html, "s1-bench")
    for row in numbers["rows"]:
        assert f'data-sort="{row["psr1"]!r}"' in shown
        if row["method"] != "base":
            assert f'data-sort="{row["delta_mean"]!r}"' in shown
    assert shown.count("data-pinned") == 3, "two erased sets, and all of them"
    concepts = table(html, "s1-concepts")
    for row in numbers["per_concept"]:
        assert f'data-sort="{row["delta"]!r}"' in concepts
    made = json.loads(next(store.glob("edits/*/edit.json")).read_text(encoding="utf-8"))
    assert f"<code>{made['command']}</code>" in unescape(html)
    assert numbers["model_hash"] in html
    assert 'id="s2-trace"' in html
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    again = run("report", store, folder, "--output", page, "--json")
    assert again.json == data
    assert page.read_text(encoding="utf-8") == html

    small = run("report", store, "--output", page, "--max-megabytes", "0", "--title", "A & B")
    assert small.code == 0
    assert "were left out" in small.err
    html = page.read_text(encoding="utf-8")
    assert "<img " not in html
    assert "<title>A &amp; B</title>" in html


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "There is no folder"),
        ({}, "neither a benchmark nor a finished erasure"),
        ({"store.json": '{"schema": 1}'}, "No sweep is listed"),
        ({"store.json": '{"schema": 99}'}, "schema 99"),
        ({"edit.json": "{"}, "is damaged"),
        ({"edit.json": "[]"}, "holds no JSON object"),
        ({"edit.json": '{"method": "gumbel"}'}, "lacks 'concepts'"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, dict) else "",
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    run, tmp_path: Path, files: dict[str, Any] | None, words: str
) -> None:
    folder = tmp_path / "run"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    done = run("report", folder, "--output", tmp_path / "page.html")
    assert done.code == 2
    assert words in done.sentence
    assert not (tmp_path / "page.html").exists()


def test_a_folder_is_not_written_over(run, make_run, tmp_path: Path) -> None:
    done = run("report", make_run("gumbel", "church"), "--output", tmp_path)
    assert done.code == 2
    assert "is a folder" in done.sentence


def test_a_damaged_picture_is_named(run, make_run, tmp_path: Path) -> None:
    folder = copytree(make_run("gumbel", "church"), tmp_path / "run")
    (folder / "before-after.png").write_bytes(b"no picture")
    done = run("report", folder, "--output", tmp_path / "page.html")
    assert done.code == 2
    assert "before-after.png" in done.sentence


def test_a_page_stands_in_its_first_run_where_no_other_place_is_named(
    run, make_run, tmp_path: Path
) -> None:
    folder = copytree(make_run("gumbel", "church"), tmp_path / "run")
    done = run("report", folder, "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(folder / "report.html")
    assert (folder / "report.html").stat().st_size == done.json["bytes"]


def test_a_link_is_followed_and_what_is_no_file_is_left_alone(
    run, make_run, tmp_path: Path
) -> None:
    folder, link, pipe = make_run("gumbel", "church"), tmp_path / "link", tmp_path / "pipe"
    (tmp_path / "real.html").write_text("old", encoding="utf-8")
    link.symlink_to(tmp_path / "real.html")
    os.mkfifo(pipe)
    assert run("report", folder, "-o", link).code == 0
    assert link.is_symlink()
    assert "<html" in (tmp_path / "real.html").read_text(encoding="utf-8")
    for place in (pipe, Path("/dev/null"), Path("/dev/full")):
        done = run("report", folder, "-o", place)
        assert done.code == 2
        assert str(place) in done.sentence
        assert not place.is_file()

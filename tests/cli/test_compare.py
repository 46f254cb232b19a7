"""`erasekit compare`, as a user runs it, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]


@pytest.fixture
def bench(run, tmp_path: Path, tiny_folder: Path, tiny_scorer_folder: Path, monkeypatch):
    """Benches one erasure of "church" into a folder."""
    monkeypatch.chdir(tmp_path)

    def do(folder: str, *more: str) -> None:
        done = run(
            *("bench", "--output", folder, "--model", tiny_folder, "--concepts", "church"),
            *("--scorer", f"local-dir:{tiny_scorer_folder}", "--seeds", "1"),
            *("--images-per-concept", "2", "--sampling-steps", "2"),
            *("--set", "steps=2", "--set", "trajectory_steps=2", "--set", "trajectories=1"),
            *more,
        )
        assert done.code == 0, done.err

    return do


def test_two_benches_show_what_differs(run, bench) -> None:
    bench("a", "--methods", "none,neutral")
    bench("b", "--methods", "none,l2", "--set", "learning_rate=0.05")
    done = run("compare", "a", "b", "--json")
    assert done.code == 0, done.err
    (one,) = done.json["differing"]
    assert (one["method"], one["erased"], one["seeds"]) == ("none", "church", 1)
    assert [*one["changed"]] == ["learning_rate"]
    assert one["changed"]["learning_rate"][1] == 0.05
    low, high = one["delta_difference"]["ci95"]
    assert low < one["delta_difference"]["value"] < high
    assert done.json["only_a"] == ["neutral, church, seed 0"]
    assert done.json["only_b"] == ["l2, church, seed 0"]
    shown = run("compare", "a", "b")
    assert "learning_rate: " in shown.out
    assert one["verdict"][:30] in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    same = run("compare", "a", "a")
    assert "No image was scored differently." in same.out
    assert "The same in both: none, church; neutral, church" in same.out.replace("\n", " ")


def test_benches_that_were_not_measured_alike_are_refused(run, bench) -> None:
    bench("a", "--methods", "none")
    bench("b", "--methods", "none", "--sampling-steps", "3")
    done = run("compare", "a", "b")
    assert done.code == 2
    assert "differ in sampling steps (2 and 3)" in done.sentence
    assert done.out == ""


@pytest.mark.slow
def test_two_erasures_are_drawn_and_compared(run, make_run, tiny_scorer_folder: Path) -> None:
    a, b = make_run("none", "church"), make_run("l2", "church")
    scorer = ["--scorer", f"local-dir:{tiny_scorer_folder}"]
    before = [sorted(folder.iterdir()) for folder in (a, b)]
    done = run("compare", a, b, "--images-per-concept", "1", *scorer, "--json")
    assert done.code == 0, done.err
    (one,) = done.json["differing"]
    assert (one["method"], one["erased"], one["seeds"]) == ("none -> l2", "church", 1)
    assert one["changed"]["method"] == ["none", "l2"]
    assert one["delta_difference"]["value"] == pytest.approx(one["delta"][1] - one["delta"][0])
    assert one["delta_difference"]["n"] == 8
    assert before == [sorted(folder.iterdir()) for folder in (a, b)]


def test_what_is_no_pair_is_refused_in_one_sentence(
    run, make_run, bench, tmp_path: Path, tiny_scorer_folder: Path
) -> None:
    church, bus = make_run("none", "church"), make_run("none", "bus")
    bench("store", "--methods", "none")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "store.json").write_text('{"schema": 1}')
    for arguments, words in (
        ((church, bus), "differ in erased concepts (church and bus)"),
        ((church, "nowhere"), "nowhere"),
        (("store", church), "is no bench and the other is"),
        (("store", "old"), "No sweep is listed in 'old'"),
        (("store", "store", "--images-per-concept", "3"), "--images-per-concept is for erasures"),
        (("store", "store", "--dtype", "fp32"), "--dtype is for erasures"),
    ):
        done = run("compare", *arguments)
        assert done.code == 2
        assert words in done.sentence

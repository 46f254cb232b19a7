"""`erasekit bench --suite general`, as a user runs it, on the tiny model and without Inception."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]


def test_fid_is_left_out_and_clip_score_stays(
    run, tmp_path: Path, tiny_folder: Path, tiny_scorer_folder: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "captions.csv").write_text("caption\na red car\na bus\n" + "church " * 99 + "\n")
    command = ["bench", "--suite", "general", "--model", tiny_folder, "--sampling-steps", 2]
    command += ["--scorer", f"local-dir:{tiny_scorer_folder}", "--images-per-concept", 1]
    command += ["--methods", "none", "--concepts", "church", "--seeds", 1, "-o", "store"]
    command += ["--set", "steps=2", "--set", "trajectory_steps=2", "--set", "trajectories=1"]
    named = run(*command)
    assert named.code == 2
    assert "name them with --captions captions_val2014.json" in " ".join(named.err.split())
    assert not (tmp_path / "store").exists()

    command += ["--captions", "captions.csv"]
    done = run(*command)
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "fid is left out: fid needs its weights as a file" in said
    assert "1 of 3 captions are too long" in said
    assert "cut there, as diffusers does" in said
    assert "Further measures. Erased: church" in done.out
    assert "CLIP score" in done.out
    data = json.loads((tmp_path / "store" / "bench.json").read_text())
    assert data["left_out"][0].startswith("fid is left out")
    for row in data["rows"]:
        assert row["measures"].keys() == {"clip-score"}
        assert row["measures"]["clip-score"]["caption"]["n"] == 3
    shown = run("bench", "show", "store")
    assert "1 of 3 captions are too long" in " ".join(shown.out.split())
    assert "fid is left out" in " ".join(shown.err.split())
    assert "Further measures" in shown.out
    assert run("report", "store", "--output", "page.html").code == 0
    assert "fid is left out" in (tmp_path / "page.html").read_text("utf-8")
    table = run("bench", "export", "store", "--to", "markdown", "-o", "table.md")
    assert table.code == 0
    assert "CLIP score, caption ↑" in (tmp_path / "table.md").read_text()

    skipped = run(*command, "--long-prompts", "skip", "--json")
    assert "are left out" in " ".join(skipped.err.split())
    rows = skipped.json["rows"]
    assert [row["measures"]["clip-score"]["caption"]["n"] for row in rows] == [2, 2]

    refused = run(*command, "--measures", "fid")
    assert refused.code == 2
    assert "or go without: --measures none" in " ".join(refused.err.split())

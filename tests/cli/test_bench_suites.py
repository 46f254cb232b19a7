"""`erasekit bench --suite NAME`, each suite from end to end, as small as it goes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erasekit.bench.suites import SPLITS
from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

SMALL = ["--images-per-concept", 1, "--seeds", 1, "--methods", "none", "--sampling-steps", 1]
SMALL += ["--set", "steps=1", "--set", "trajectory_steps=1", "--set", "trajectories=1"]
Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """`bench("artists", "--model", MODEL)` in an empty folder: what bench.json says."""
    monkeypatch.chdir(tmp_path)

    def do(suite: str, *arguments: object) -> dict[str, Any]:
        done = run("bench", "--suite", suite, *SMALL, *arguments, "--output", "store")
        assert done.code == 0, done.err
        return json.loads((tmp_path / "store" / "bench.json").read_text(encoding="utf-8"))

    return do


@pytest.fixture
def on_tiny(tiny_folder: Path, tiny_scorer_folder: Path) -> list[object]:
    """The tiny model, and a scorer that goes with it."""
    return ["--model", tiny_folder, "--scorer", f"local-dir:{tiny_scorer_folder}"]


def test_metrics_of_a_file_are_in_everything_that_is_shown(
    bench: Bench, run, on_tiny, tmp_path: Path
) -> None:
    concepts = "".join(f'[[concepts]]\nname = "{n}"\n' for n in ("church", "bus", "car", "road"))
    text = 'name = "mine"\nversion = "1"\ncases = [{erase = ["church"]}]\nmetrics = ["delta"]\n'
    (tmp_path / "mine.toml").write_text(text + concepts, encoding="utf-8")
    data = bench("mine.toml", *on_tiny)
    assert data["metrics"] == ["delta"]
    for row in data["rows"]:
        assert row["metrics"]["delta"]["value"] == row["delta_mean"]
    assert run("bench", "show", "store", "--json").json["rows"] == data["rows"]
    assert " delta\n" in run("bench", "show", "store").out.partition("Further measures")[2]
    assert run("bench", "export", "store", "--to", "csv", "-o", "table.csv").code == 0
    assert "metrics_delta_value" in (tmp_path / "table.csv").read_text()
    assert run("report", "store", "--output", "page.html").code == 0
    named = text.replace('["delta"]', '["detla"]')
    (tmp_path / "mine.toml").write_text(named + concepts, encoding="utf-8")
    refused = run("bench", "--suite", "mine.toml", *on_tiny)
    assert refused.code == 2
    assert "did you mean 'delta'?" in " ".join(refused.err.split())


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of torchvision's ResNet-50, as `--weights` takes them."""
    from safetensors.torch import save_file
    from torchvision.models import resnet50

    path = tmp_path_factory.mktemp("resnet50") / "resnet50.safetensors"
    save_file(resnet50().state_dict(), path)
    return path


@pytest.mark.icons
def test_imagenette(bench: Bench, resnet: Path) -> None:
    data = bench("imagenette", "--concepts", "+".join(SPLITS[0]), "--weights", f"resnet50={resnet}")
    assert (data["model"], data["protocol"]) == ("icons", "short")
    assert data["classifier"]["name"] == "resnet50"
    assert data["erased_sets"] == [{"erased": "+".join(SPLITS[0]), "kept": list(SPLITS[1])}]
    for row, method in zip(data["rows"], ("base", "none"), strict=True):
        assert (row["method"], row["images"]) == (method, 10)
        assert all(0 <= row[f"{r}_before"] <= 1 for r in ("esr1", "esr5", "psr1", "psr5"))
    assert {row["concept"] for row in data["per_concept"]} == set(SPLITS[1])
    assert {row["split"] for row in data["per_concept"]} == {"held-out"}


@pytest.mark.icons
def test_artists(bench: Bench, tmp_path: Path) -> None:
    data = bench("artists", "--concepts", "noto", "--methods", "none,neutral")
    (case,) = data["erased_sets"]
    assert (case["erased"], len(case["kept"])) == ("noto", 4)
    assert [measure["name"] for measure in data["measures"]] == ["clip-distance"]
    base, *after = data["rows"]
    assert [row["method"] for row in after] == ["none", "neutral"]
    assert base["measures"]["clip-distance"]["erased"]["mean"] == pytest.approx(0, abs=1e-4)
    for row in after:
        found = row["measures"]["clip-distance"]
        assert {split: own["n"] for split, own in found.items()} == {"erased": 1, "held-out": 4}
        assert found["erased"]["mean"] > 0
    assert (tmp_path / "store" / "images-noto.png").is_file()


def test_nudity(bench: Bench, run, on_tiny, tmp_path: Path) -> None:
    pytest.importorskip("nudenet")
    rows = "prompt,sd_seed\na photo of a church,7\na red bus,8\n"
    (tmp_path / "i2p.csv").write_text(rows, encoding="utf-8")
    data = bench("nudity", *on_tiny, "--prompts", "i2p.csv")
    assert [case["erased"] for case in data["erased_sets"]] == ["nudity"]
    for row in data["rows"]:
        counts = {name: own["probe"]["n"] for name, own in row["measures"].items()}
        assert {"ner-0.3", "ner-0.5", "ner-0.7", "ner-0.8", "parts/FEET_EXPOSED"} <= set(counts)
        assert set(counts.values()) == {2}
    kept = {row["concept"]: row["family"] for row in data["per_concept"]}
    assert (kept["woman"], kept["banana"]) == ("people", "unrelated")
    assert run("report", "store", "--output", "page.html").code == 0
    assert "Part by part" in (tmp_path / "page.html").read_text("utf-8")


def test_sensitivity(bench: Bench, on_tiny) -> None:
    pytest.importorskip("wordfreq")
    data = bench("sensitivity", *on_tiny)
    assert (data["suite_version"], data["protocol"]) == ("2", "short")
    assert [case["erased"] for case in data["erased_sets"]] == ["garbage truck", "nudity"]
    for erased in ("garbage truck", "nudity"):
        own = [row for row in data["per_concept"] if row["erased"] == erased]
        families = Counter(row["family"] for row in own)
        assert 1 <= families["words"] <= 30  # the tiny tokenizer has few whole words
        assert {row["split"] for row in own if row["family"] == "words"} == {"pool"}
        assert {"woman", "banana", "road", "a photo"} <= {row["concept"] for row in own}
    assert [row["method"] for row in data["overall"]] == ["base", "none"]

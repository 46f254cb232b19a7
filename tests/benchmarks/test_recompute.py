"""The second opinion on a sweep's numbers: it agrees with a real one, and notices tampering."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from benchmarks.recompute.__main__ import main
from benchmarks.recompute.numbers import numbers_of
from benchmarks.recompute.records import Drawn, Run, Side
from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

RECOMPUTE = Path(__file__).parents[2] / "benchmarks" / "recompute"
SUITE = """
name = "small"
version = "1"
label = "a {}"
images_per_concept = 2
images_per_erased = 3
num_inference_steps = 2
methods = ["none", "random"]
seeds = 2
cases = [{erase = ["church", "lighthouse"]}, {erase = ["bus"]}]
concepts = [
  {name = "church", aliases = ["chapel"]},
  {name = "bus", split = "pool"},
  {name = "car", aliases = ["red car"]},
  {name = "banana"},
  {name = "apple", split = "pool"},
]
"""


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tiny_scorer_folder: Path
) -> tuple[Path, list[str]]:
    """A store with a whole sweep, and the arguments to look at it with."""
    from erasekit.cli.app import main as run

    folder = tmp_path_factory.mktemp("recompute")
    (folder / "small.toml").write_text(SUITE)
    (folder / "words.txt").write_text("car\nroad\nhouse\n")
    quick = [f"--set={k}=2" for k in ("steps", "trajectory_steps", "trajectories", "batch_size")]
    words = f"concept_space={folder / 'words.txt'}"
    command = ["bench", "--suite", folder / "small.toml", "--model", tiny_folder, *quick]
    command += ["--scorer", f"local-dir:{tiny_scorer_folder}", "--set", words, "-o", folder / "s"]
    with pytest.raises(SystemExit) as ended:
        run([str(argument) for argument in command])
    assert not ended.value.code
    return folder / "s", ["--suite", str(folder / "small.toml")]


@pytest.fixture
def copy(swept, tmp_path: Path):
    """A copy of the store to tamper with, and how `main` judges it."""
    store, suite = swept
    shutil.copytree(store, tmp_path / "store")
    return tmp_path / "store", lambda *more: main([str(tmp_path / "store"), *suite, *more])


def test_it_shares_no_code_with_erasekit() -> None:
    for path in RECOMPUTE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert not [n for n in names if (n or "").split(".")[0] == "erasekit"], path


def test_a_whole_sweep_comes_out_again(swept, capsys) -> None:
    store, suite = swept
    assert main([str(store), *suite, "--concepts", "--tolerance", "1e-4"]) == 0
    out = capsys.readouterr().out
    assert "All agree." in out
    assert "DIFFERENT" not in out
    # 3 of each erased, 2 of each kept; the base, and four erasures, of each set.
    drawn = (2 * 3 + 4 * 2) + (3 + 4 * 2)
    assert f"{5 * drawn} images scored anew" in out
    rows = json.loads((store / "bench.json").read_text())
    for row in (*rows["rows"], *rows["overall"]):
        assert f"{row['psr5']:.6f}" in out
        assert row["method"] == "base" or f"{row['delta_mean']:.6f}" in out
    # The word list has "car", so it is pool for all who erase the same.
    assert {r["split"] for r in rows["per_concept"] if r["concept"] == "car"} == {"pool"}


def test_it_notices_a_tampered_record(copy, capsys) -> None:
    store, judged = copy
    record = next(p for p in (store / "cells").glob("*.json") if "none" in p.read_text())
    data = json.loads(record.read_text())
    kept = next(c for c in data["concepts"] if c["split"] == "held-out")
    kept["after"]["scores"][0] += 0.01
    record.write_text(json.dumps(data))
    assert judged() == 1
    assert f"DIFFERENT: cells/{record.name}, {kept['concept']}" in capsys.readouterr().out
    assert judged("--against", str(store / "bench.json")) == 1
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("none") and "DIFFERENT" in line]
    assert not [line for line in out.splitlines() if line.startswith("random") and "DIFF" in line]


def test_it_notices_a_tampered_rank(copy, capsys) -> None:
    store, judged = copy
    record = next(iter((store / "cells").glob("*.json")))
    data = json.loads(record.read_text())
    erased = next(c for c in data["concepts"] if c["split"] == "erased")
    rank = erased["after"]["ranks"][0]
    erased["after"]["ranks"][0] = 4.0 if rank == 1 else 1.0
    record.write_text(json.dumps(data))
    assert judged() == 1
    assert f"{erased['concept']}: rank" in capsys.readouterr().out


def test_it_notices_a_tampered_image(copy, capsys) -> None:
    store, judged = copy
    record = json.loads(next(iter((store / "cells").glob("*.json"))).read_text())
    sheet = store / "sheets" / f"{record['sheets'][0]}.png"
    with Image.open(sheet) as file:
        pixels, text = np.array(file), file.text["erasekit"]
    note = PngImagePlugin.PngInfo()
    note.add_itxt("erasekit", text)
    pixels[:16, :16] = 255 - pixels[:16, :16]
    Image.fromarray(pixels).save(sheet, pnginfo=note)
    assert judged() == 1
    assert "seen" in capsys.readouterr().out
    Image.fromarray(pixels).save(sheet)
    assert judged() == 1
    assert "can't be read" in capsys.readouterr().out
    sheet.unlink()
    assert judged() == 1


def test_it_notices_that_records_are_gone_or_renamed(copy, capsys) -> None:
    store, judged = copy
    one, other = sorted((store / "cells").glob("*.json"))[:2]
    shutil.copy(one, other)
    assert judged() == 1
    assert "is not named by its identity" in capsys.readouterr().out
    other.unlink()
    assert judged() == 1
    assert "can't be read" in capsys.readouterr().out


def test_nudity_is_looked_for_again(swept, tmp_path: Path, capsys, tiny_folder: Path) -> None:
    from erasekit.cli.app import main as run

    pytest.importorskip("nudenet")
    store, suite = swept
    scorer = json.loads((store / "bench.json").read_text())["scorer"]["name"]
    command = ["bench", *suite, "--model", str(tiny_folder), "--scorer", scorer, "--set=steps=2"]
    command += ["--set=trajectory_steps=2", "--set=trajectories=1", "--measures", "nudenet"]
    command += ["--methods", "none", "--seeds", "1", "--concepts", "bus", "-o", str(tmp_path / "s")]
    with pytest.raises(SystemExit):
        run(command)
    assert main([str(tmp_path / "s"), *suite]) == 0
    out = capsys.readouterr().out
    (line,) = [
        own for own in out.splitlines() if own.startswith("none") and "ner-0.5, erased" in own
    ]
    assert line.split()[-3:] == ["0.000000"] * 3
    (record,) = (tmp_path / "s" / "cells").glob("*.json")
    data = json.loads(record.read_text())
    data["concepts"][0]["after"]["measures"]["ner-0.5"][0] = 1.0
    record.write_text(json.dumps(data))
    assert main([str(tmp_path / "s"), *suite]) == 1
    assert "ner-0.5 is (1.0, 0.0, 0.0) recorded, (0.0, 0.0, 0.0) seen" in capsys.readouterr().out


def side(scores, ranks, **measures) -> Side:
    return Side(tuple(range(len(scores))), tuple(scores), tuple(ranks), measures)


def test_the_numbers_by_hand() -> None:
    """Two erasure seeds; concepts weigh the same, images of a rate weigh the same."""
    nan = float("nan")

    def run(seed: int, church, car, bus) -> Run:
        before = {
            "church": side([9, 9], [1, 1]),
            "car": side([8, 6], [1, 1]),
            "bus": side([5], [1]),
        }
        drawn = (
            Drawn(
                "church", "erased", before["church"], side([1, 2], church, **{"ner-0.5": (1, 0)})
            ),
            Drawn("car", "held-out", before["car"], side(car, [1, 7])),
            Drawn("bus", "held-out", before["bus"], side(bus, [3])),
        )
        return Run("", "none", "church", seed, "", (), (), (), (), "", drawn, {"fid": 3.0 + seed})

    found = numbers_of([run(0, [1, 6], [7, nan], [5]), run(1, [2, nan], [6, 6], [1])])
    own = {what: value for (_, _, what), value in found.items()}
    assert own["ESR-1"] == pytest.approx(2 / 3)
    assert own["ESR-5"] == pytest.approx(1 / 3)
    assert own["PSR-1"] == pytest.approx(2 / 6)
    assert own["PSR-5"] == pytest.approx(4 / 6)
    assert own["delta of car"] == pytest.approx((1 + 2 + 0) / 3)
    assert own["delta of bus"] == pytest.approx((0 + 4) / 2)
    assert own["delta"] == pytest.approx((1 + 2) / 2)
    assert own["alignment after"] == 1.5
    assert own["ner-0.5, erased"] == 0.5
    assert own["fid, caption"] == 3.5
    assert np.isnan(own["delta, pool"])

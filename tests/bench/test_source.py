"""Cells follow the source that computes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import erasekit
from erasekit.bench import plan as module
from erasekit.bench.plan import SAMPLING, SCORING, TRAINING, source_hash
from erasekit.bench.runner import BenchmarkRunner
from erasekit.metrics.judges import Judges
from tests.bench.suites.test_general import CAPTIONS, Colours


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package's sources, which `source_hash` reads in place of the package's."""
    root = tmp_path / "erasekit"
    for part in (*TRAINING, *SCORING):
        origin = Path(erasekit.__file__).parent / part
        copy = shutil.copytree if origin.is_dir() else shutil.copy
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        copy(origin, root / part)
    source_hash.cache_clear()
    monkeypatch.setattr(module.erasekit, "__file__", str(root / "__init__.py"))
    yield root
    source_hash.cache_clear()


def hashes() -> tuple[str, str]:
    source_hash.cache_clear()
    return source_hash(TRAINING), source_hash(SAMPLING)


def test_a_changed_line_changes_what_depends_on_it(copied: Path) -> None:
    before = hashes()
    (copied / "methods" / "notes.txt").write_text("no source")
    assert hashes() == before
    gradient = copied / "methods" / "gradient.py"
    gradient.write_text(gradient.read_text() + "# more\n")
    trained = hashes()
    assert trained[0] != before[0]
    assert trained[1] == before[1]
    sampling = copied / "diffusion" / "sampling.py"
    sampling.rename(sampling.with_name("drawing.py"))
    assert hashes()[0] != trained[0]
    assert hashes()[1] != trained[1]


def test_line_ends_do_not_count(copied: Path) -> None:
    before = hashes()
    path = copied / "edits.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert hashes() == before


def test_cells_and_sheets_carry_it(runner, make_sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep("none")
    cell = runner.plan(sweep).cells[0]
    assert cell.cell.identity["erasure"]["source"] == source_hash(TRAINING)
    assert cell.cell.identity["evaluation"]["generation"]["source"] == source_hash(SAMPLING)
    monkeypatch.setattr(module, "source_hash", lambda parts: "other")
    assert runner.plan(sweep).cells[0].edit_key != cell.edit_key


def test_changed_scoring_code_scores_the_same_images_and_edits_again(
    runner, make_sweep, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Colours()
    judges = replace(Judges.of(runner.scorer), sets=(measure,))
    runner = BenchmarkRunner(runner.model, judges, runner.store)
    sweep = make_sweep("none", erased="church")
    sweep = replace(sweep, suite=replace(sweep.suite, captions=CAPTIONS))
    first = runner.run(sweep, runner.plan(sweep))
    assert runner.plan(sweep).missing == ()
    looked_at, scored = measure.looked_at, []
    score = type(judges.scorer).score

    def counted(self, images, prompts):
        scored.append(len(images))
        return score(self, images, prompts)

    monkeypatch.setattr(type(judges.scorer), "score", counted)
    fid = copied / "metrics" / "judges" / "fid.py"
    fid.write_text(fid.read_text() + "# more\n")
    source_hash.cache_clear()
    plan = runner.plan(sweep)
    assert (len(plan.missing), plan.erasures, plan.images) == (1, (), 0)
    passes = runner.model.passes.snapshot()
    again = runner.run(sweep, plan)
    assert runner.model.passes.snapshot() == passes
    assert sum(scored) == 2 * plan.erased_sets[0].images
    assert measure.looked_at == 2 * looked_at
    assert again[1].edit == first[1].edit
    assert again[1].sheets == first[1].sheets
    assert again[1].cell.key != first[1].cell.key

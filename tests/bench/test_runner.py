"""Sweeps on the tiny model: what runs, what is kept, and whether the numbers are right."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from erasekit.bench.forecast import forecast
from erasekit.bench.records import Record
from erasekit.bench.runner import BenchmarkRunner, Observer
from erasekit.bench.store import RecordStore
from erasekit.bench.summary import summarise
from erasekit.diffusion.sampling import generate
from erasekit.errors import ConfigError, Interrupted, OutputError, UnknownNameError
from erasekit.metrics.judges.open_clip import open_clip_folder
from erasekit.metrics.success_rates import DRAWN
from erasekit.reporting.results import comparison_rows
from tests.bench.conftest import WORLD
from tests.tiny_clip import MEAN, STD, build_scorer_folder


def run(runner: BenchmarkRunner, sweep, **options) -> list[Record]:
    return runner.run(sweep, runner.plan(sweep, **options))


def frozen(records: list[Record]) -> list[str]:
    """Records without their times."""
    return [repr(replace(r, seconds=0.0, checksums={})) for r in records]


def files(store: RecordStore) -> dict[str, int]:
    """What was computed, and when. (`sweeps` says when a sweep was last asked for.)"""
    return {
        str(p.relative_to(store.root)): p.stat().st_mtime_ns
        for p in store.root.rglob("*")
        if p.is_file() and p.parent.name != "sweeps"
    }


def test_a_plan_counts_what_will_run_and_writes_nothing(runner, make_sweep, store) -> None:
    plan = runner.plan(make_sweep("none", "l2", erased="bus,church+castle", seeds=2))
    assert len(plan.cells) == len(plan.missing) == 8
    assert plan.failed == ()
    # Case 1: 4 of bus, 3 of each of the 6 others; case 2: 2 x 4, and 3 of each of 5. The base
    # model draws both, less the one page that they share or not.
    images = [4 + 3 * 6, 8 + 3 * 5]
    assert [planned.images for planned in plan.erased_sets] == images
    assert 4 * sum(images) < plan.images <= 5 * sum(images)
    assert plan.image_passes == plan.images * 3 * 2
    assert plan.erasure_passes is None
    assert not store.root.exists()


def test_the_same_sweep_again_computes_nothing(runner, make_sweep, store) -> None:
    sweep = make_sweep("none", "pgd", seeds=2)
    first = run(runner, sweep)
    before, passes = files(store), runner.model.passes.snapshot()
    plan = runner.plan(sweep)
    assert (len(plan.missing), plan.images, plan.erasure_passes) == (0, 0, 0)
    assert [repr(r) for r in runner.run(sweep, plan)] == [repr(r) for r in first]
    assert files(store) == before
    assert runner.model.passes.snapshot() == passes


def test_one_more_method_runs_that_one_only(runner, make_sweep) -> None:
    run(runner, make_sweep("none"))
    plan = runner.plan(make_sweep("none", "neutral"))
    assert [p.cell.method for p in plan.missing] == ["neutral"]
    assert plan.images == plan.erased_sets[0].images
    seeds = runner.plan(make_sweep("none", seeds=3))
    assert [p.cell.seed for p in seeds.missing] == [1, 2]
    assert seeds.erasure_passes > 0


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"steps": 4}},
        {"suite": {"version": "2"}},
        {"suite": {"guidance_scale": 3.0}},
        {"suite": {"images_per_concept": 2}},
        {"suite": {"concepts": WORLD[:-1]}},
    ],
    ids=str,
)
def test_whatever_changes_a_number_changes_the_cell(runner, make_sweep, change) -> None:
    plain, settings = make_sweep("none"), change.get("settings", {})
    changed = make_sweep("none", **settings)
    changed = replace(changed, suite=replace(changed.suite, **change.get("suite", {})))
    keys = [runner.plan(s).cells[0].cell.key for s in (plain, changed)]
    assert keys[0] != keys[1]


def test_another_scorer_scores_the_same_images_and_edits(
    runner, make_sweep, store, registry, tmp_path
) -> None:
    sweep = make_sweep("none")
    first = run(runner, sweep)
    other = open_clip_folder(str(build_scorer_folder(tmp_path / "other", seed=5)))
    second = BenchmarkRunner(runner.model, other, store)
    plan = second.plan(sweep)
    assert (len(plan.missing), plan.images) == (1, 0)
    assert (plan.erasures, plan.erasure_passes) == ((), 0)
    told = forecast(second, sweep.suite, plan)
    assert told is not None
    assert (plan.costs.total, plan.costs.guessed) == (0, 0)
    passes = runner.model.passes.snapshot()
    scored = second.run(sweep, plan)
    assert runner.model.passes.snapshot() == passes
    assert scored[1].edit == first[1].edit
    assert scored[1].concepts != first[1].concepts


def test_settings_go_to_the_methods_that_have_them(runner, make_sweep) -> None:
    plan = runner.plan(make_sweep("none", "pgd", eta=0.5))
    none, pgd = (p.cell.identity["erasure"]["settings"] for p in plan.cells)
    assert "eta" not in none
    assert pgd["eta"] == 0.5
    with pytest.raises(ConfigError, match="did you mean 'eta'"):
        runner.plan(make_sweep("none", "pgd", etta=0.5))
    with pytest.raises(ConfigError, match="None of the methods none"):
        runner.plan(make_sweep("none", eta=0.5))


@pytest.mark.parametrize(
    ("methods", "error"),
    [(("nonesuch",), UnknownNameError), ((), ConfigError), (("none", "none"), ConfigError)],
)
def test_bad_methods_are_refused_before_anything_runs(
    runner, make_sweep, store, methods, error
) -> None:
    with pytest.raises(error):
        runner.plan(make_sweep(*methods))
    assert not store.root.exists()


def test_a_failed_cell_is_recorded_and_the_sweep_goes_on(
    runner, make_sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erasekit.methods.preservation.pgd import PGDPreservation

    def broken(self, task) -> None:
        raise RuntimeError("no adversary today")

    sweep = make_sweep("pgd", "none")
    with monkeypatch.context() as patch:
        patch.setattr(PGDPreservation, "prepare", broken)
        records = run(runner, sweep)
    assert [(r.cell.method, r.status) for r in records] == [
        ("base", "done"),
        ("pgd", "failed"),
        ("none", "done"),
    ]
    summary = summarise(records)
    assert summary.failures == ("pgd, garbage truck, seed 0: RuntimeError: no adversary today",)
    failed = next(row for row in summary.rows if row.method == "pgd")
    assert (failed.failed, failed.seeds, failed.images) == (1, 0, 0)
    assert math.isnan(failed.delta.value)
    assert math.isnan(failed.esr1.value)
    assert runner.plan(sweep).missing == ()
    assert len(runner.plan(sweep).failed) == 1
    again = run(runner, sweep, retry_failed=True)
    assert [r.status for r in again] == ["done"] * 3


def test_an_interruption_keeps_what_was_finished_and_changes_no_number(
    runner, make_sweep, store, registry, tmp_path: Path
) -> None:
    sweep = make_sweep("none", "l2", seeds=2)

    class Impatient(Observer):
        seen = 0

        def on_images(self, count: int) -> None:
            self.seen += count
            if self.seen > 60:
                raise KeyboardInterrupt

    runner.observer = Impatient()
    with pytest.raises(Interrupted, match="of 4 cells are finished and kept"):
        run(runner, sweep)
    kept = len(list(store.records()))
    assert 0 < kept < 4
    runner.observer = Observer()
    plan = runner.plan(sweep)
    assert len(plan.missing) == 4 - kept
    resumed = runner.run(sweep, plan)
    fresh = BenchmarkRunner(runner.model, runner.scorer, RecordStore(tmp_path / "fresh"))
    assert frozen(resumed) == frozen(run(fresh, sweep))


def test_a_store_that_cannot_be_written_stops_the_sweep(
    runner, make_sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("No space left")

    monkeypatch.setattr(RecordStore, "put_edit", full)
    with pytest.raises(OutputError, match="No space left"):
        run(runner, make_sweep("none"))
    assert list(runner.store.records()) == []


def test_the_model_is_left_as_it_was(runner, make_sweep) -> None:
    before = {k: v.clone() for k, v in runner.model.unet.state_dict().items()}
    run(runner, make_sweep("none"))
    for name, value in runner.model.unet.state_dict().items():
        assert torch.equal(value, before[name])


def test_base_images_are_drawn_once_for_all_methods_and_seeds(runner, make_sweep) -> None:
    drawn: Counter[str] = Counter()

    class Count(Observer):
        current = "base"

        def on_base(self, erased: str) -> None:
            self.current = "base"

        def on_cell(self, cell) -> None:
            self.current = "cell"

        def on_images(self, count: int) -> None:
            drawn[self.current] += count

    runner.observer = Count()
    sweep = make_sweep("none", "l2", seeds=2)
    plan = runner.plan(sweep)
    runner.run(sweep, plan)
    assert drawn == {"base": plan.erased_sets[0].images, "cell": 4 * plan.erased_sets[0].images}


def test_saved_images_are_those_that_the_edit_draws(runner, make_sweep, store) -> None:
    sweep = make_sweep("none")
    _, record = run(runner, sweep)
    page = runner.plan(sweep).erased_sets[0].pages[1]
    edit = store.edit(record.edit)
    with edit.applied(runner.model):
        alone = generate(
            runner.model,
            [page[0].prompt],
            page[0].noises[:1],
            num_inference_steps=3,
            guidance_scale=2.0,
        )
    saved = store.sheet(record.sheets[1], (len(page), 3))
    assert np.abs(saved[0, 0].astype(int) - alone[0]).max() <= 1
    assert record.forward > 0
    assert record.backward > 0


def test_the_numbers_agree_with_an_independent_count_from_the_images(
    runner, make_sweep, store, tiny_scorer_folder
) -> None:
    """Alignment, ESR, PSR and delta from the PNG files alone, with open_clip by hand."""
    records = run(runner, make_sweep("none", "pgd", erased="church+banana", seeds=2))
    network = open_clip.create_model(f"local-dir:{tiny_scorer_folder}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{tiny_scorer_folder}")

    def unit(x: torch.Tensor) -> torch.Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    labels = [(name, c.name) for c in WORLD for name in (c.name, *c.aliases)]
    with torch.no_grad():
        label_features = unit(network.encode_text(tokenize([name for name, _ in labels])))

    def images_of(weights: str) -> dict[tuple[str, int], tuple[float, str]]:
        """(prompt, noise) -> (alignment, top class), from every sheet of these weights."""
        found = {}
        for path in store.root.glob("sheets/*.png"):
            file = Image.open(path)
            note = json.loads(file.text["erasekit"])
            if note["weights"] != weights:
                continue
            for row, (prompt, noises) in enumerate(
                zip(note["prompts"], note["noises"], strict=True)
            ):
                for column, noise in enumerate(noises):
                    image = file.crop((16 * column, 16 * row, 16 * column + 16, 16 * row + 16))
                    image = image.convert("RGB").resize((20, 20), Image.Resampling.BILINEAR)
                    pixels = (np.asarray(image) / 255 - MEAN) / STD
                    tensor = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
                    with torch.no_grad():
                        feature = unit(network.encode_image(tensor))
                        text = unit(network.encode_text(tokenize([prompt])))
                    top = labels[int((feature @ label_features.T).argmax())][1]
                    found[prompt, noise] = (100 * float(feature @ text.T), top)
        return found

    base = images_of(runner.model.hash)
    summary = summarise(records)
    erased, held_out = {"church", "banana"}, {"bus"}
    pool = {"garbage truck", "car", "castle", "apple"}
    for row in summary.rows[1:]:
        runs = [images_of(r.edit) for r in records if r.cell.method == row.method]
        assert len(runs) == 2

        def scores(group: set[str], source: dict) -> list[float]:
            return [score for (prompt, _), (score, _) in source.items() if prompt in group]

        after = [s for source in runs for s in scores(erased, source)]
        assert len(after) == row.alignment_after.n == 16
        assert row.alignment_after.value == pytest.approx(np.mean(after), abs=1e-4)
        assert row.alignment_before.value == pytest.approx(np.mean(scores(erased, base)), abs=1e-4)
        drawn = {
            name
            for name in erased
            if np.mean([top == p for (p, _), (_, top) in base.items() if p == name]) >= DRAWN
        }
        shown = [top == p for (p, _), (_, top) in base.items() if p in (drawn or erased)]
        assert row.esr1_before.value == 1 - np.mean(shown)
        gone = [top != p for source in runs for (p, _), (_, top) in source.items() if p in drawn]
        assert row.esr1.n == len(gone)
        assert math.isnan(row.esr1.value) if not gone else row.esr1.value == np.mean(gone)
        there = [
            top == p for source in runs for (p, _), (_, top) in source.items() if p in held_out
        ]
        assert row.psr1.value == np.mean(there)
        for group, estimate in ((held_out, row.delta), (pool, row.delta_pool)):
            per_concept = [
                np.mean(
                    [base[k][0] - v[0] for source in runs for k, v in source.items() if k[0] == c]
                )
                for c in group
            ]
            assert estimate.value == pytest.approx(np.mean(per_concept), abs=1e-4)
            assert estimate.n == len(group) * 3 * 2


def test_a_held_out_concept_in_the_concept_space_counts_as_pool(
    runner, make_sweep, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("bus\nroad\n")
    sweep = make_sweep("none", "random", concept_space=str(words))
    records = run(runner, sweep)
    assert [r.exposed for r in records] == [(), (), ("bus",)]
    splits = {(r.method, r.concept): r.split for r in summarise(records).per_concept}
    assert splits["random", "bus"] == splits["none", "bus"] == "pool"
    assert splits["random", "church"] == "held-out"


def test_pictures_are_those_of_the_records(runner, make_sweep, store) -> None:
    records = run(runner, make_sweep("none", "l2", erased="church"))
    summary = summarise(records)
    methods, rows = comparison_rows(store, records, summary, "church")
    assert methods == ["base", "none", "l2"]
    assert [row.label for row in rows[:2]] == ["church (erased)", "church (erased)"]
    assert len(rows) == 2 + 6
    harms = {r.concept: r.delta.value for r in summary.per_concept if r.method == "none"}
    harms = {c: harms[c] + r.delta.value for c in harms for r in summary.per_concept
             if (r.method, r.concept) == ("l2", c)}  # fmt: skip
    assert [row.label for row in rows[2:]] == sorted(harms, key=lambda c: -harms[c])
    after = store.images(records[2])
    np.testing.assert_array_equal(rows[0].images[2], after["church"][0])
    np.testing.assert_array_equal(rows[1].images[2], after["church"][1])
    store.path("sheets", records[1].sheets[0]).unlink()
    _, rows = comparison_rows(store, records, summary, "church")
    assert (rows[0].images[1] == 255).all()

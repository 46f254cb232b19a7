"""Tables and pictures of a bench, and of a first look."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from erasekit.records import (
    Comparison,
    ConceptScores,
    Estimate,
    Matched,
    Paired,
    QuickConcept,
    QuickResult,
    Summary,
)
from erasekit.reporting.grids import before_after_grid
from erasekit.reporting.tables import bench_table, quick_table
from tests.reporting.rows import bench_row

NAN = math.nan


def printed(renderable, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture
def summary() -> Summary:
    rows = [bench_row("base", 0.0), bench_row("neutral", 12.31), bench_row("gumbel", -0.004)]
    return Summary((*rows, bench_row("nearest", NAN)), tuple(rows), ())


def test_the_table_fits_80_columns_with_nothing_cut(summary: Summary) -> None:
    text = printed(bench_table(summary, "icons-clip"))
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    neutral = next(line for line in lines if line.startswith("neutral"))
    for part in ("12.3", "94 %", "12.31 [11.06, 13.56]", "6.16", "roller coa 36.9", "81 %", "123k"):
        assert part in neutral
    assert neutral.endswith("118")


def test_more_is_shown_where_there_is_room_and_less_where_there_is_none(summary: Summary) -> None:
    heads = {}
    for width in (60, 80, 100, 120, 160):
        text = printed(bench_table(summary), width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        assert "…" not in text
        heads[width] = text.splitlines()[2].split()
        erasure, cost = (text.index(word) for word in ("ESR-1", "delta"))
        assert erasure < cost, "erasure and what it cost stand side by side"
    assert len(heads[60]) < len(heads[80]) < len(heads[160])
    wide = printed(bench_table(summary), 160)
    for part in ("31.2 → 12.3", "roller coaster 36.9", "6.16 [5.91, 6.41]", "images"):
        assert part in wide


def test_the_base_stands_first_with_no_delta_and_nan_is_a_dash(summary: Summary) -> None:
    lines = printed(bench_table(summary)).splitlines()
    methods = ["base", "neutral", "gumbel", "nearest"]
    order = [next(i for i, line in enumerate(lines) if line.startswith(m)) for m in methods]
    assert order == sorted(order)
    assert "[" not in lines[order[0]]
    assert "-0.00" not in lines[order[2]]
    assert "- [-]" in lines[order[3]]


def test_the_table_says_which_way_is_good(summary: Summary) -> None:
    text = printed(bench_table(summary))
    assert text.count("↑") >= 4
    assert "↓" in text
    assert "All 1 erased sets" in text


def test_the_best_and_what_cannot_be_told_from_it_are_marked() -> None:
    rows = [
        bench_row("base", 0.0),
        replace(bench_row("pgd", 1.0), best=True),
        replace(bench_row("random", 1.5), tied=True),
        bench_row("none", 9.0),
    ]
    plain = printed(bench_table(Summary(tuple(rows), (), ())))
    assert "*1.00 [" in plain
    assert "~1.50 [" in plain
    assert " 9.00 [" in plain
    assert "* the smallest delta" in " ".join(plain.split())
    assert "smallest delta" not in printed(bench_table(Summary(tuple(rows[:1]), (), ())))


def test_harmed_concepts_have_a_column_where_they_were_tested(summary: Summary) -> None:
    assert "harmed" not in printed(bench_table(summary), 160)
    rows = [replace(row, harmed=Estimate(0.125, 16)) for row in summary.rows[1:]]
    text = printed(bench_table(Summary((summary.rows[0], *rows), (), ())))
    assert "12 %" in next(line for line in text.splitlines() if line.startswith("neutral"))


def test_matched_erasure_and_the_verdicts_on_the_best_stand_below() -> None:
    rows = (
        bench_row("base", 0.0),
        replace(bench_row("pgd", 1.0), best=True),
        bench_row("random", 1.5),
        bench_row("none", 9.0),
    )

    def compared(method: str, other: str) -> Comparison:
        verdict = f"{method} harms less than {other}"
        return Comparison(method, other, "garbage truck", Estimate(-1.0, 9), 0.01, verdict)

    matched = tuple(
        Matched("pgd", "garbage truck", esr1, Estimate(delta, 4, 0, 0.5, 2.5, note), 40.0)
        for esr1, delta, note in ((0.9, 1.25, ""), (0.95, NAN, "no run gets there"))
    )
    matched += (Matched("none", "garbage truck", 0.9, Estimate(3.0, 4, 0, 2.0, 4.0), 40.0),)
    comparisons = (compared("pgd", "random"), compared("random", "none"))
    less = Estimate(-1.75, 4, note="1 of 2 pairs of runs are not both there")
    at_90 = (
        replace(compared("pgd", "none"), esr1=0.9, difference=less),
        replace(compared("random", "none"), esr1=0.9),
    )
    notes = ("1 seed only", "Matched erasure: pgd, garbage truck: no run gets there.")
    summary = Summary(rows, (), (), (), comparisons, matched, notes, at_90)
    text = printed(bench_table(summary))
    assert "garbage truck: pgd harms less than random" in text
    assert "random harms less than none" not in text
    assert (
        "garbage truck, at ESR-1 90 %: pgd harms less than none (1 of 2 pairs of runs are not both "
        "there)"
    ) in " ".join(text.split())
    assert text.index("3.00 [2.00, 4.00]") < text.index("garbage truck, at ESR-1 90 %")
    assert "1.25 [0.50, 2.50]" in text
    assert "ESR-1 95 %" in text
    assert "1 seed only" in text
    assert text.count("no run gets there") == 1


@pytest.mark.parametrize("width", [60, 80, 120])
def test_matched_tables_are_whole_however_long_the_names_of_their_sets(width: int) -> None:
    five = "cassette player+church+garbage truck+parachute+french horn"
    rows = tuple(bench_row(method, 1.0, name) for name in (five, "tench") for method in ("a", "b"))
    overall = tuple(bench_row(method, 1.0, "all") for method in ("a", "b"))
    matched = tuple(
        Matched(method, name, esr1, Estimate(10 * delta, 4, 0, -10.5, 20.25), 40.0)
        for name in (five, "tench", "all")
        for method, delta in (("a", 1.25), ("b", 2.5))
        for esr1 in (0.9, 0.95)
    )
    verdict = "a can't be told from b at 3 seeds; about 9 would be needed"
    compared = tuple(
        Comparison("a", "b", name, Estimate(-1.25, 4), 0.5, verdict, 9, 0.9)
        for name in (five, "tench", "all")
    )
    summary = Summary(rows, overall, (), (), (), matched, (), compared)
    text = printed(bench_table(summary), width)
    below = text[text.index("At matched erasure.") :]
    assert "…" not in below
    assert max(len(line.rstrip()) for line in below.splitlines()) <= width
    words = " ".join(below.split())
    for title in (f"Erased: {five}", "Erased: tench", "All 2 erased sets"):
        assert f"At matched erasure. {title}" in words
    assert words.count("12.50 [-10.50, 20.25] 12.50 [-10.50, 20.25]") == 3
    assert words.count("delta ↓ at ESR-1 95 %") == 3
    assert words.count(verdict) == 1
    assert f"all, at ESR-1 90 %: {verdict}" in words


@pytest.mark.parametrize("classifier", ["clip zero-shot", "resnet50"])
def test_who_told_the_classes_apart_is_said(summary: Summary, classifier: str) -> None:
    text = " ".join(printed(bench_table(summary, "clip", classifier)).split())
    assert f"classes by {classifier}." in text


def test_failed_cells_stand_in_the_table() -> None:
    text = printed(
        bench_table(Summary((bench_row("base", 0.0), bench_row("pgd", 1.0, failed=2)), (), ()))
    )
    assert "pgd (2 failed)" in text


@pytest.fixture
def quick() -> QuickResult:
    def one(name: str, role, shade: int) -> QuickConcept:
        scores = ConceptScores(name, (0, 1), (30.0, 31.0), (1.0, 1.0))
        after = ConceptScores(name, (0, 1), (28.0, NAN), (4.0, NAN))
        before = np.full((2, 16, 16, 3), shade, np.uint8)
        return QuickConcept(
            Paired(name, role, "family", scores, after),
            Estimate(1.0, 1, 1),
            Estimate(2.0, 1, 1),
            before,
            before // 2,
        )

    concepts = (one("church", "erased", 250), one("[bold]castle", "held-out", 200))
    return QuickResult(concepts, Estimate(1.0, 1), Estimate(2.0, 1), "icons-clip")


def test_the_quick_table_shows_erased_and_kept(quick: QuickResult) -> None:
    text = printed(quick_table(quick))
    assert "30.5 → 28.0" in text
    assert "100 %" in text
    assert "[bold]castle" in text
    assert "+2.00" in text
    assert "icons-clip" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_the_grid_shows_before_beside_after(quick: QuickResult) -> None:
    pixels = np.asarray(before_after_grid(quick))
    for shade in (250, 125, 200, 100):
        assert (pixels == shade).all(axis=-1).sum() >= 2 * 90 * 90
    places = {s: np.argwhere((pixels == s).all(axis=-1)) for s in (250, 125, 200)}
    middle = {shade: np.median(found, axis=0) for shade, found in places.items()}
    assert middle[250][1] < middle[125][1]
    assert middle[250][0] < middle[200][0]

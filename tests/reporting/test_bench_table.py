"""The tables of a bench in a terminal and on a page; all their forms stand in golden/."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from erasekit.bench.records import Comparison, Matched, Measured, MeasuredConcept, Row, Summary
from erasekit.metrics.scores import ConceptScores, Estimate, Paired
from erasekit.reporting.bench_table import (
    bench_table,
    bench_tables,
    export_table,
    part_title,
    parts_table,
)
from erasekit.reporting.page import render
from erasekit.reporting.pictures import before_after_sheet
from erasekit.reporting.run_table import measures_tables
from tests.reporting.results import bench_result
from tests.reporting.rows import bench_row

NAN = math.nan
ABOUT = {
    "model": "icons",
    "suite": "icons-mini",
    "suite_version": "1",
    "protocol": "short",
    "scorer": {"name": "icons-clip"},
}


def printed(renderable, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture
def summary() -> Summary:
    rows = [bench_row("base", 0.0), bench_row("neutral", 12.31), bench_row("gumbel", -0.004)]
    overall = tuple(replace(row, erased="all") for row in rows)
    return Summary((*rows, bench_row("nearest", NAN)), overall, ())


def test_the_table_fits_80_columns_with_nothing_cut(summary: Summary) -> None:
    text = printed(bench_table(summary, ABOUT))
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    neutral = next(line for line in lines if line.startswith("neutral"))
    for part in ("12.3", "94 %", "12.31 [11.06, 13.56]", "6.16", "roller coa 36.9", "81 %", "123k"):
        assert part in neutral


def test_more_is_shown_where_there_is_room_and_less_where_there_is_none(summary: Summary) -> None:
    heads = {}
    for width in (60, 80, 100, 120, 160):
        text = printed(bench_table(summary, ABOUT), width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        assert "…" not in text
        heads[width] = text.splitlines()[2].split()
        erasure, cost = (text.index(word) for word in ("ESR-1", "delta"))
        assert erasure < cost, "erasure and what it cost stand side by side"
    assert len(heads[60]) < len(heads[80]) < len(heads[160])
    wide = printed(bench_table(summary, ABOUT), 160)
    for part in ("31.2 → 12.3", "roller coaster 36.9", "6.16 [5.91, 6.41]", "images"):
        assert part in wide


def test_the_base_stands_first_with_no_delta_and_nan_is_a_dash(summary: Summary) -> None:
    lines = printed(bench_table(summary, ABOUT)).splitlines()
    methods = ["base", "neutral", "gumbel", "nearest"]
    order = [next(i for i, line in enumerate(lines) if line.startswith(m)) for m in methods]
    assert order == sorted(order)
    assert "[" not in lines[order[0]]
    assert "-0.00" not in lines[order[2]]
    assert "[" not in lines[order[3]]
    assert " - " in lines[order[3]]


def test_the_table_says_which_way_is_good(summary: Summary) -> None:
    text = printed(bench_table(summary, ABOUT))
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
    plain = printed(bench_table(Summary(tuple(rows), (), ()), ABOUT))
    assert "*1.00 [" in plain
    assert "~1.50 [" in plain
    assert " 9.00 [" in plain
    assert "*best, ~tied." in " ".join(plain.split())
    assert "*best" not in printed(bench_table(Summary(tuple(rows[:1]), (), ()), ABOUT))


def test_harmed_concepts_have_a_column_where_they_were_tested(summary: Summary) -> None:
    assert "harmed" not in printed(bench_table(summary, ABOUT), 160)
    rows = [replace(row, harmed=Estimate(0.125, 16)) for row in summary.rows[1:]]
    text = printed(bench_table(Summary((summary.rows[0], *rows), (), ()), ABOUT))
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
    text = printed(bench_table(summary, ABOUT))
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
    text = printed(bench_table(summary, ABOUT), width)
    below = text[text.index("At matched erasure.") :]
    assert "…" not in below
    assert max(len(line.rstrip()) for line in below.splitlines()) <= width
    words = " ".join(below.split())
    for title in (f"Erased: {five}", "Erased: tench", "All 2 erased sets"):
        assert f"At matched erasure. {title}" in words
    assert words.count("12.50 [-10.50, 20.25] 12.50 [-10.50, 20.25]") == 3
    assert words.count("delta at ESR-1 95 %") == 3
    assert words.count(verdict) == 1
    assert f"all, at ESR-1 90 %: {verdict}" in words


@pytest.mark.parametrize(
    ("classifier", "words"), [("icons-clip", "icons-clip"), ("resnet50", "resnet50")]
)
@pytest.mark.parametrize("width", [80, 200])
def test_the_classifier_is_named(summary: Summary, classifier: str, words: str, width: int) -> None:
    about = {**ABOUT, "classifier": {"name": classifier}}
    text = printed(bench_table(summary, about), width)
    assert f"classifier {words}." in " ".join(text.split())


def test_failed_cells_stand_in_the_table() -> None:
    text = printed(
        bench_table(
            Summary((bench_row("base", 0.0), bench_row("pgd", 1.0, failed=2)), (), ()), ABOUT
        )
    )
    assert "pgd (2 failed)" in text


@pytest.fixture
def quick() -> Measured:
    def one(name: str, split, shade: int) -> MeasuredConcept:
        scores = ConceptScores(name, (0, 1), (30.0, 31.0), (1.0, 1.0))
        after = ConceptScores(name, (0, 1), (28.0, NAN), (4.0, NAN))
        before = np.full((2, 16, 16, 3), shade, np.uint8)
        return MeasuredConcept(
            Paired(name, split, "family", scores, after),
            Estimate(1.0, 1, 1),
            Estimate(2.0, 1, 1),
            before,
            before // 2,
        )

    concepts = (one("church", "erased", 250), one("[bold]castle", "held-out", 200))
    return Measured(concepts, Estimate(1.0, 1), Estimate(2.0, 1), "icons-clip")


def test_the_quick_table_shows_erased_and_kept(quick: Measured) -> None:
    text = "".join(map(printed, measures_tables(quick.as_dict())))
    assert "30.5 → 28.0" in text
    assert "100 %" in text
    assert "[bold]castle" in text
    assert "+2.00" in text
    assert "icons-clip" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_the_grid_shows_before_beside_after(quick: Measured) -> None:
    pixels = before_after_sheet(quick)
    for shade in (250, 125, 200, 100):
        assert (pixels == shade).all(axis=-1).sum() >= 2 * 90 * 90
    places = {s: np.argwhere((pixels == s).all(axis=-1)) for s in (250, 125, 200)}
    middle = {shade: np.median(found, axis=0) for shade, found in places.items()}
    assert middle[250][1] < middle[125][1]
    assert middle[250][0] < middle[200][0]


MEASURES = {
    "ner-0.3": {"probe": Estimate(0.25, 8), "erased": Estimate(0.5, 8)},
    "ner-0.5": {"probe": Estimate(0.125, 8), "erased": Estimate(NAN, 0, 8)},
    "parts/FEET_EXPOSED": {"probe": Estimate(0.1, 8)},
    "lpips": {"erased": Estimate(0.4321, 8), "held-out": Estimate(0.1234, 8)},
    "clip-score": {"caption": Estimate(31.415, 50)},
    "fid": {"caption": Estimate(12.345, 50)},
}


def measured(method: str, measures=MEASURES) -> Row:
    row = bench_row(method, 1.0, "nudity")
    rates = {"esr5": Estimate(0.625, 8), "psr5": Estimate(0.875, 8)}
    return replace(row, delta_pool=Estimate(NAN, 0), measures=measures, **rates)


BASE_MEASURES = {key: value for key, value in MEASURES.items() if key != "fid"}
MEASURED = Summary((measured("base", BASE_MEASURES), measured("gumbel")), (), ())


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_further_measures_whole(width: int) -> None:
    text = printed(bench_table(MEASURED, ABOUT), width)
    assert max(map(len, text.splitlines())) <= width
    assert "Further measures. Erased: nudity" in text
    for value in ("12.35", "31.41", "0.432", "0.123", "25 %", "12 %"):
        assert value in text
    for head in ("FID", "CLIP score", "LPIPS", "NER 0.5", "NER 0.3"):
        assert head in text
    assert "FEET" not in text
    assert "Further" not in printed(bench_table(Summary((measured("a", {}),), (), ()), ABOUT))


def test_papers_tables_have_further_measures_beside_the_rates() -> None:
    table = export_table(MEASURED, "methods", ABOUT)
    assert table is not None
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in table.markdown().splitlines()]
    cells, base = (dict(zip(lines[0], line, strict=True)) for line in (lines[3], lines[2]))
    assert cells["FID, caption ↓"] == "12.35"
    assert cells["CLIP score, caption ↑"] == "31.41"
    assert cells["LPIPS, erased ↑"] == "0.432"
    assert cells["LPIPS, held-out ↓"] == "0.123"
    assert cells["NER 0.5, probe (%) ↓"] == "12.5"
    assert cells["NER 0.5, erased (%) ↓"] == "–"
    assert (cells["ESR-5 (%) ↑"], cells["PSR-5 (%) ↑"]) == ("62.5", "87.5")
    assert not [head for head in cells if head.startswith("delta, pool")]
    assert base["FID, caption ↓"] == "–"
    assert base["LPIPS, erased ↑"] == "0.432"
    pooled = export_table(Summary((bench_row("gumbel", 1.0),), (), ()), "methods", ABOUT)
    assert pooled is not None
    assert "delta, pool ↓" in pooled.markdown()
    assert "ESR-5" not in pooled.markdown()


def test_a_page_has_further_measures_too() -> None:
    table = bench_tables(MEASURED)["bench"]
    (column,) = (c for c in table.shown("page") if c.title("page") == "FID caption")
    base, gumbel = table.groups["Erased: nudity"]
    assert (column.cell(base).text, column.cell(gumbel).text) == ("-", "12.35")
    assert column.better == "lower"


def test_parts_have_a_table_of_their_own() -> None:
    assert part_title("parts/FEMALE_BREAST_EXPOSED") == "female breast"
    assert part_title("hands/left") == "hands: left"
    more = {
        **MEASURES,
        "parts/BELLY_EXPOSED": {"probe": Estimate(2.5, 8), "erased": Estimate(1, 4)},
    }
    rows = (measured("base"), measured("gumbel", measures=more))
    table = parts_table(Summary(rows, (), ()))
    heads = [column.title("page") for column in table.columns]
    assert heads == ["method", "images of", "feet", "belly", "images"]
    cells = [[column.cell(row).text for column in table.columns] for row in table.all_rows]
    assert cells == [
        ["base", "probe", "0.100", "-", "8"],
        ["gumbel", "probe", "0.100", "2.500", "8"],
        ["gumbel", "erased", "-", "1.000", "4"],
    ]
    assert not parts_table(Summary((measured("base", measures={}),), (), ())).all_rows
    result = replace(bench_result(), summary=Summary(rows, (), ()))
    html = render([result]).html
    assert "Part by part" in html
    assert "2.500" in html


def test_what_has_no_row_gives_no_table() -> None:
    assert export_table(MEASURED, "matched", ABOUT) is None
    assert export_table(MEASURED, "comparisons", ABOUT) is None


def test_rates_stand_with_what_they_were_before_and_their_limits() -> None:
    before, after = Estimate(0.125, 8, 0, 0.02, 0.47), Estimate(0.75, 16, 0, 0.41, 0.93)
    unseen = Estimate(NAN, 0, note="left out")
    rows = (
        replace(bench_row("base", 0.0), esr1=before),
        replace(bench_row("gumbel", 1.0), esr1=after, esr1_before=before, psr1_before=before),
        replace(bench_row("none", 1.0), esr1=unseen, esr1_before=Estimate(1.0, 8)),
    )
    text = printed(bench_table(Summary(rows, (), ()), ABOUT), 200)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "12 % [2, 47]" in lines["base"]
    assert "12 → 75 % [41, 93]" in lines["gumbel"]
    assert "12 → 81 %" in lines["gumbel"]
    assert lines["none"].split()[1] == "-"

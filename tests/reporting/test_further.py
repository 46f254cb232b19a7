"""Columns of further measures, in the terminal and in the tables of papers."""

from __future__ import annotations

import doctest
import io
from dataclasses import replace

import pytest
from rich.console import Console

from erasekit.bench.summary_json import summary_json
from erasekit.records import Estimate, Row, Summary
from erasekit.reporting import parts
from erasekit.reporting.forms import printed
from erasekit.reporting.page import render
from erasekit.reporting.parts import parts_view
from erasekit.reporting.report import Report
from erasekit.reporting.tables import bench_table
from erasekit.reporting.views import bench_view
from tests.reporting.results import bench_result

NAN = float("nan")
MEASURES = {
    "ner-0.3": {"probe": Estimate(0.25, 8), "erased": Estimate(0.5, 8)},
    "ner-0.5": {"probe": Estimate(0.125, 8), "erased": Estimate(NAN, 0, 8)},
    "parts/FEET_EXPOSED": {"probe": Estimate(0.1, 8)},
    "lpips": {"erased": Estimate(0.4321, 8), "held-out": Estimate(0.1234, 8)},
    "clip-score": {"caption": Estimate(31.415, 50)},
    "fid": {"caption": Estimate(12.345, 50)},
}


def row(method: str, pool: float = NAN, measures=MEASURES) -> Row:
    nothing = Estimate(NAN, 0)
    return Row(
        method=method, erased="nudity", alignment_before=Estimate(70.0, 8),
        alignment_after=Estimate(60.0, 8), esr1=Estimate(0.75, 8), psr1=Estimate(0.5, 8),
        delta=Estimate(1.0, 8, 0, 0.5, 1.5), delta_pool=Estimate(pool, 8), worst=None, seeds=2,
        failed=0, images=16, seconds=9.0, unet_passes=100.0, harmed=nothing,
        esr5=Estimate(0.625, 8), psr5=Estimate(0.875, 8), measures=measures,
    )  # fmt: skip


def shown(summary: Summary, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(bench_table(summary))
    return file.getvalue()


BASE_MEASURES = {key: value for key, value in MEASURES.items() if key != "fid"}
SUMMARY = Summary((row("base", measures=BASE_MEASURES), row("gumbel")), (), ())


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_them_whole(width: int) -> None:
    text = shown(SUMMARY, width)
    assert max(map(len, text.splitlines())) <= width
    assert "Further measures. Erased: nudity" in text
    for value in ("12.35", "31.41", "0.432", "0.123", "25 %", "12 %", "62 %", "88 %"):
        assert value in text
    for head in ("FID", "CLIP score", "LPIPS", "NER 0.5", "NER 0.3", "ESR-5", "PSR-5"):
        assert head in text
    assert "FEET" not in text
    plain = shown(Summary((row("base", 1.0, {}), row("gumbel", 1.0, {})), (), ()), width)
    assert "Further" not in plain


def test_papers_tables_have_them_beside_the_rates() -> None:
    header, body = printed(summary_json(SUMMARY)["rows"], "methods")
    cells = dict(zip(header, body[1], strict=True))
    assert cells["FID, caption ↓"] == "12.35"
    assert cells["CLIP score, caption ↑"] == "31.41"
    assert cells["LPIPS, erased ↑"] == "0.432"
    assert cells["LPIPS, held-out ↓"] == "0.123"
    assert cells["NER 0.5, probe ↓"] == "12 %"
    assert cells["NER 0.5, erased ↓"] == "–"
    assert (cells["ESR-5 (%) ↑"], cells["PSR-5 (%) ↑"]) == ("62.5", "87.5")
    assert "Delta, pool ↓" not in header
    base = dict(zip(header, body[0], strict=True))
    assert base["FID, caption ↓"] == "–"
    assert base["LPIPS, erased ↑"] == "0.432"
    pooled, _ = printed(summary_json(Summary((row("gumbel", 1.0),), (), ()))["rows"], "methods")
    assert "Delta, pool ↓" in pooled
    assert "ESR-5 (%) ↑" not in pooled


def test_a_page_has_them_too() -> None:
    view = bench_view(SUMMARY)
    place = [head.text for head in view.heads].index("FID, caption")
    base, gumbel = view.groups["Erased: nudity"]
    assert (base.cells[place].text, gumbel.cells[place].text) == ("-", "12.35")
    assert view.heads[place].good == "down"
    assert len(view.heads) == len(gumbel.cells)


def test_parts_have_a_table_of_their_own_on_the_page() -> None:
    assert doctest.testmod(parts).failed == 0
    more = {
        **MEASURES,
        "parts/BELLY_EXPOSED": {"probe": Estimate(2.5, 8), "erased": Estimate(1, 4)},
    }
    rows = (row("base"), row("gumbel", measures=more))
    view = parts_view(Summary(rows, (), ()))
    assert view is not None
    assert [head.text for head in view.heads] == ["method", "images of", "feet", "belly", "images"]
    (lines,) = view.groups.values()
    assert [[cell.text for cell in line.cells] for line in lines] == [
        ["base", "probe", "0.100", "-", "8"],
        ["gumbel", "probe", "0.100", "2.500", "8"],
        ["gumbel", "erased", "-", "1.000", "4"],
    ]
    assert view.choices == {"images": ["probe", "erased"]}
    overall = parts_view(Summary(rows, rows, ()))
    assert overall is not None
    assert list(overall.groups) == ["All 1 erased sets", "Erased: nudity"]
    assert parts_view(Summary((row("base", measures={}),), (), ())) is None
    result = replace(bench_result(), summary=Summary(rows, (), ()))
    html = render(Report("", [result], "1", "")).html
    assert "Part by part" in html
    assert "2.500" in html

"""Every table in every form, held against files that a reader has looked at.

`WRITE_GOLDEN=1 pytest tests/reporting/test_golden.py` writes them anew; look at the difference
before it is kept.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from erasekit.bench.records import Comparison, Matched, MetricValue, Summary
from erasekit.metrics.scores import Estimate
from erasekit.reporting.bench_table import TABLES, bench_table, export_table
from erasekit.reporting.page import render
from tests.reporting.results import bench_result
from tests.reporting.rows import bench_row, concept_row

GOLDEN = Path(__file__).parent / "golden"
NAN = float("nan")
ABOUT = {
    "model": "icons",
    "model_hash": "ab" * 32,
    "suite": "icons-mini",
    "suite_version": "1",
    "protocol": "short",
    "scorer": {"name": "icons-clip", "weights": "a"},
    "classifier": {"name": "r_50", "weights": "b"},
}


def summary() -> Summary:
    """Two erased sets with an overall one, and one of everything that a table may hold."""
    rows, concepts, comparisons = [], [], []
    for place, erased in enumerate(("church", "a_b & [bold]")):
        rows += [
            replace(bench_row("base", 0.0, erased, esr1=0.06), harmed=None),
            replace(bench_row("neutral", 12.31, erased), harmed=Estimate(0.125, 16)),
            replace(bench_row("gumbel", -0.004 + place, erased, failed=place), best=True),
            replace(bench_row("random", 0.4, erased), tied=True, delta_pool=Estimate(NAN, 0)),
            bench_row("nearest", NAN, erased),
        ]
        concepts += [
            concept_row("neutral", "castle", 4.0 + place, erased, p=0.01),
            concept_row("gumbel", "castle", 1.5, erased),
            concept_row("neutral", "bus | road", NAN, erased),
        ]
        difference = Estimate(-12.3, 9, 0, -13.0, -11.5)
        verdict = "gumbel harms less than neutral: -12.30 [-13.00, -11.50]"
        comparisons += [
            Comparison("gumbel", "neutral", erased, difference, 0.0004, verdict),
            Comparison("gumbel", "nearest", erased, Estimate(NAN, 0), NAN, "nothing in common"),
        ]
    measures = {
        "lpips": {"erased": Estimate(0.4321, 8), "held-out": Estimate(0.1234, 8)},
        "ner-0.5": {"probe": Estimate(0.125, 8)},
        "fid": {"caption": Estimate(12.345, 50)},
        "parts/FEET_EXPOSED": {"probe": Estimate(0.1, 8), "erased": Estimate(2.5, 8)},
    }
    metrics = {"sharpness": MetricValue(Estimate(0.5, 8, 0, 0.25, 0.75), True)}
    rows[1] = replace(rows[1], measures=measures, metrics=metrics)
    overall = tuple(replace(row, erased="all") for row in rows[:5])
    matched = tuple(
        Matched(method, erased, esr1, Estimate(delta, 4, 0, delta - 1, delta + 1, note), 84.4)
        for erased in ("church", "all")
        for method, esr1, delta, note in (
            ("gumbel", 0.9, 1.25, ""),
            ("gumbel", 0.95, NAN, "2 of 2 runs never there"),
            ("neutral", 0.9, 3.0, ""),
        )
    )
    at = replace(comparisons[0], esr1=0.9, difference=replace(difference, note="1 of 2 pairs"))
    return Summary(
        tuple(rows),
        overall,
        tuple(concepts),
        ("gumbel, church, seed 1: RuntimeError: [x]",),
        (*comparisons, replace(comparisons[0], erased="all")),
        matched,
        ("Harmed concepts: with 2 erasure seeds, this is about these edits.",),
        (at, replace(at, erased="all")),
    )


def outputs() -> Iterator[tuple[str, str]]:
    """File names and texts."""
    for width in (80, 160):
        file = io.StringIO()
        console = Console(file=file, width=width, highlight=False, color_system=None)
        console.print(bench_table(summary(), ABOUT))
        lines = [line.rstrip() + "\n" for line in file.getvalue().splitlines()]
        yield f"terminal-{width}.txt", "".join(lines)
    for what in TABLES:
        table = export_table(summary(), what, ABOUT)
        assert table is not None
        yield f"{what}.csv", table.csv()
        yield f"{what}.md", table.markdown()
        yield f"{what}.tex", table.latex()
    result = replace(bench_result(), summary=summary(), galleries={}, about=ABOUT)
    html = render([result]).html
    yield "page.html", "\n".join(re.findall(r"<table.*?</table>", html, re.DOTALL)) + "\n"


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    texts = dict(outputs())
    if "WRITE_GOLDEN" in os.environ:
        for name, text in texts.items():
            (GOLDEN / name).write_bytes(text.encode("utf-8"))
    return texts


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_tables_are_as_they_were_looked_at(name: str, found: dict[str, str]) -> None:
    assert found[name] == (GOLDEN / name).read_bytes().decode("utf-8")


def test_every_table_was_looked_at(found: dict[str, str]) -> None:
    assert set(found) == {path.name for path in GOLDEN.iterdir()}

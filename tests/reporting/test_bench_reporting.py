"""Tables and figures of a bench."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from erasekit.records import (
    ConceptScores,
    Estimate,
    Paired,
    QuickConcept,
    QuickResult,
    Row,
    Summary,
)
from erasekit.reporting.figures import plot_pareto
from erasekit.reporting.grids import before_after_grid
from erasekit.reporting.tables import bench_table, quick_table

NAN = math.nan


def printed(renderable, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


def row(method: str, delta: float, erased: str = "garbage truck", failed: int = 0) -> Row:
    return Row(
        method,
        erased,
        Estimate(31.2, 16),
        Estimate(12.3, 16),
        Estimate(0.9375, 16),
        Estimate(0.81, 80),
        Estimate(delta, 80, 0, delta - 1.25, delta + 1.25),
        Estimate(delta / 2, 80),
        ("roller coaster", 3 * delta) if method != "base" else None,
        2,
        failed,
        160,
        118.4,
        123_456.0,
    )


@pytest.fixture
def summary() -> Summary:
    rows = [row("base", 0.0), row("neutral", 12.31), row("gumbel", -0.004), row("nearest", NAN)]
    return Summary(tuple(rows), tuple(rows), ())


def test_the_table_fits_80_columns_with_nothing_cut(summary: Summary) -> None:
    text = printed(bench_table(summary, "icons-clip"))
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    neutral = next(line for line in lines if line.startswith("neutral"))
    for part in ("12.3", "94 %", "12.31 [11.06, 13.56]", "6.16", "roller coa 36.9", "81 %", "123k"):
        assert part in neutral
    assert neutral.endswith("118")


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


def test_failed_cells_stand_in_the_table() -> None:
    text = printed(bench_table(Summary((row("base", 0.0), row("pgd", 1.0, failed=2)), (), ())))
    assert "pgd (2 failed)" in text


def test_the_figure_is_a_picture_of_each_set(summary: Summary, tmp_path: Path) -> None:
    rows = (*summary.rows, row("base", 0.0, "church"), row("pgd", 2.0, "church"))
    assert plot_pareto(Summary(rows, (), ()), tmp_path / "two.png")
    assert plot_pareto(summary, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width > one.width
        assert len(set(one.convert("RGB").getdata())) > 20


def test_no_figure_where_nothing_was_measured(tmp_path: Path) -> None:
    assert not plot_pareto(Summary((row("base", NAN),), (), ()), tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


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

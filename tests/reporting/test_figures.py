"""Figures of a bench: what is in them, and that they are files anybody can read."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from erasekit.bench.records import Summary
from erasekit.metrics.scores import Estimate
from erasekit.reporting.figures import (
    BUILT_IN,
    COLOURS,
    INK,
    colour,
    harm_figure,
    history_figures,
    inline_svg,
    pareto_figure,
    pareto_panels,
    save_pareto,
    styles,
)
from tests.reporting.rows import bench_row, concept_row

NAN = math.nan


@pytest.fixture
def summary() -> Summary:
    rows = [bench_row("base", 0.0, esr1=0.1), bench_row("neutral", 12.3), bench_row("pgd", 2.0)]
    other = [bench_row("base", 0.0, "church", esr1=0.1), bench_row("pgd", 3.0, "church")]
    return Summary((*rows, *other), (), ())


def texts(svg: str) -> set[str]:
    return {"".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if node.text}


def test_no_two_methods_share_a_colour() -> None:
    methods = ["base", *(f"method {i}" for i in range(40)), *BUILT_IN]
    looks = styles(methods)
    assert len({look.colour for look in looks.values()}) == len(methods)
    assert not looks["base"].filled


def test_a_built_in_method_looks_the_same_whatever_stands_beside_it(registry) -> None:
    own = {n for n, d in registry.methods().items() if registry.owner(d) == "erasekit:methods"}
    assert own == set(BUILT_IN)
    alone, among = styles(["gumbel"]), styles(["base", "esd", "none", "gumbel", "ca"])
    assert alone["gumbel"] == among["gumbel"]
    assert list(among) == ["base", "esd", "none", "gumbel", "ca"]
    assert len({among[name].colour for name in ("esd", "none", "gumbel", "ca")}) == 4


def test_the_colours_differ_in_grey_from_white() -> None:
    """On white paper each is dark enough to be seen in grey."""
    for one in (*COLOURS, *map(colour, range(12, 40))):
        red, green, blue = to_rgb(one)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75


def test_it_is_written_as_png_and_svg_the_same_each_time(summary: Summary, tmp_path: Path) -> None:
    files = save_pareto(summary, tmp_path / "pareto")
    assert [file.name for file in files] == ["pareto.png", "pareto.svg"]
    again = save_pareto(summary, tmp_path / "again" / "pareto")
    assert [a.read_bytes() for a in files] == [b.read_bytes() for b in again]
    found = texts(files[1].read_text(encoding="utf-8"))
    assert {"base", "neutral", "pgd", "erased: garbage truck", "erased: church"} <= found
    assert any("less harm" in text for text in found)
    with Image.open(files[0]) as picture:
        assert picture.width > picture.height
        assert len(set(picture.convert("RGB").getdata())) > 20


def test_the_points_are_where_the_numbers_say(summary: Summary) -> None:
    title, rows = next(iter(pareto_panels(summary).items()))
    figure = pareto_figure({title: rows}, styles([row.method for row in rows]))
    drawn = {
        (round(line.get_xdata()[0], 3), round(line.get_ydata()[0], 3), line.get_marker())
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 1 and line.get_marker() not in ("|", "_")
    }
    assert drawn == {(0.0, 10.0, "o"), (12.3, 93.75, "D"), (2.0, 93.75, "v")}
    (front,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(0, 10), (2, 93.75)]


def test_no_point_and_no_bar_leaves_0_to_100_per_cent() -> None:
    rows = [bench_row(f"method {i:02}", float(i), esr1=1.0) for i in range(17)]
    rows += [replace(bench_row("sure", 3.0), esr1=Estimate(1.0, 16, 0, 0.81, 1.0))]
    rows += [replace(bench_row("none", 3.0), esr1=Estimate(0.0, 16, 0, 0.0, 0.19))]
    figure = pareto_figure({"many": rows}, styles([row.method for row in rows]))
    axes = figure.axes[0]
    figure.canvas.draw()
    inverse = axes.transData.inverted()
    for line in axes.lines:
        pixels = line.get_transform().transform(line.get_xydata())
        heights = inverse.transform(pixels)[:, 1]
        assert heights.min() >= -1e-9
        assert heights.max() <= 100 + 1e-9
    assert len({line.get_color() for line in axes.lines if line.get_marker() not in "|_"}) > 17


def test_an_entropy_that_hardly_falls_looks_so() -> None:
    history = [
        {"step": i, "adversary": [{"erased": "a", "entropy": 3.47 - i / 1000, "shift": 0.1}]}
        for i in range(60)
    ]
    figures = history_figures(history)
    assert set(figures) == {"entropy of the search (nats)", "c_a moved (share of its norm)"}
    for figure in figures.values():
        assert figure.axes[0].get_ylim()[0] == 0


def test_many_sets_stand_in_rows_with_all_of_them_first(summary: Summary) -> None:
    rows = [row for row in summary.rows if row.erased == "church"]
    overall = tuple(bench_row(row.method, row.delta.value, "all") for row in rows)
    titles = list(pareto_panels(Summary(summary.rows, overall, ())))
    assert titles == ["all 2 erased sets", "erased: garbage truck", "erased: church"]


def test_no_figure_where_nothing_was_measured(tmp_path: Path) -> None:
    rows = (bench_row("base", NAN), bench_row("pgd", NAN))
    assert save_pareto(Summary(rows, (), ()), tmp_path / "none") == []
    assert save_pareto(Summary(rows[:1], (), ()), tmp_path / "none") == []
    assert list(tmp_path.iterdir()) == []
    assert harm_figure([concept_row("pgd", "bus", NAN)], styles(["pgd"])) is None


def test_the_most_harmed_concepts_are_named_worst_first() -> None:
    rows = [concept_row("pgd", f"concept {i:02}", float(i)) for i in range(30)]
    rows += [concept_row("none", "concept 00", 99.0), concept_row("none", "concept 01", NAN)]
    figure = harm_figure(rows, styles(["base", "pgd", "none"]), "church")
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["concept 00", "concept 29", "concept 28"]
    assert len(labels) == 12


def test_an_inline_figure_takes_the_ink_of_the_page_and_keeps_its_ids_apart(
    summary: Summary,
) -> None:
    title, rows = next(iter(pareto_panels(summary).items()))
    figure = pareto_figure({title: rows}, styles([row.method for row in rows]))
    one, two = inline_svg(figure, "a"), inline_svg(figure, "b")
    assert one.startswith("<svg")
    assert "currentColor" in one
    assert INK not in one
    ids = [{n.get("id") for n in ET.fromstring(svg).iter() if n.get("id")} for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for part in ("<metadata", "<?xml", "<!DOCTYPE"):
        assert part not in one


def test_names_in_figures_are_text_not_mathematics() -> None:
    rows = [bench_row("base", 0.0, "$5_$"), bench_row("pgd", 2.0, "$5_$")]
    title, rows_ = next(iter(pareto_panels(Summary(tuple(rows), (), ())).items()))
    assert "erased: $5_$" in texts(inline_svg(pareto_figure({title: rows_}, styles(["pgd"])), "a"))

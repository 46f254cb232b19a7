"""Tables, pages and figures of the observations."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from rich.console import Console

from erasekit.metrics.scores import Estimate
from erasekit.observe.impact import ROWS, Impact, ImpactContrast, ImpactedConcept, ImpactResult
from erasekit.observe.observation import Strength, observation_page, plot_observation, result_json
from erasekit.observe.preserve import Keeping, KeepingContrast, PreserveResult
from erasekit.observe.spectrum import MarkedWord, SampledWord, SpectrumResult

NAN = math.nan
STRENGTH = Strength(
    Estimate(61.2, 8), Estimate(12.3, 8), Estimate(0.875, 8, 0, 0.5, 0.95), Estimate(0.125, 8)
)


def estimate(value: float) -> Estimate:
    return Estimate(value, 8, 0, value - 1, value + 1.25)


def impact_result(concepts: int = 6) -> ImpactResult:
    names = [f"concept {i}" for i in range(concepts)]
    return ImpactResult(
        (
            Impact("garbage truck", tuple(names[:2]), STRENGTH, estimate(3)),
            Impact("nudity", tuple(names[2:3]), STRENGTH, Estimate(NAN, 0, 8)),
        ),
        tuple(
            ImpactedConcept(name, "vehicles", "held-out", (estimate(i), Estimate(NAN, 0, 2)))
            for i, name in enumerate(names)
        ),
        (ImpactContrast("garbage truck", "nudity", *map(estimate, range(7))),),
        "held",
        "Held, indeed.",
        ("One seed.",),
    )


def spectrum_result(**changes) -> SpectrumResult:
    sensitivities = tuple(0.001 * 1.05**i for i in range(120))
    fields = {
        "erased": "garbage truck",
        "words": tuple(f"word {i}" for i in range(120)),
        "sensitivities": sensitivities,
        "neutral": (
            MarkedWord("", sensitivities[50], 0.42, 0.38, 0.47),
            MarkedWord("a photo", sensitivities[80], 0.67, NAN, NAN),
        ),
        "targets": (MarkedWord("garbage truck", 1.0, 1.0, 0.99, 1.0),),
        "sample": (
            SampledWord("word 3", sensitivities[3], 0.03, estimate(1)),
            SampledWord("word 9", sensitivities[9], 0.08, Estimate(NAN, 0, 2)),
        ),
        "correlation": Estimate(0.5, 24, 0, 0.1, 0.8),
        "probes": 8,
        "reliability": 0.9,
        "verdict": "held",
        "sentence": "Held, indeed.",
    }
    return SpectrumResult(**{**fields, **changes})


def preserve_result() -> PreserveResult:
    natures = {"none": (), "related": ("road",), "unrelated": ("banana", "hat"), "neutral": ("",)}
    runs = tuple(
        Keeping(kept, nature, 0.5 if kept else NAN, STRENGTH, estimate(3), estimate(1))
        for nature, kept in natures.items()
    )
    return PreserveResult(
        "garbage truck",
        runs,
        (KeepingContrast("nothing", estimate(1)),),
        ("bus", "church"),
        "undecided",
        "Can't be told.",
    )


RESULTS = [impact_result(), spectrum_result(), preserve_result()]
NAMES = ["impact", "spectrum", "preserve"]


@pytest.mark.parametrize("result", RESULTS, ids=NAMES)
def test_tables_fit_80_columns_with_nothing_cut(result) -> None:
    for table in result.tables():
        console = Console(file=io.StringIO(), width=80, highlight=False)
        console.print(table)
        text = console.file.getvalue()
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
        assert "…" not in text


def rows(table) -> list[list[str]]:
    return [[str(column.cell(row)) for column in table.columns] for row in table.rows]


def test_erasure_stands_beside_what_it_costs() -> None:
    (first, *_), (second, *_) = impact_result().tables(), preserve_result().tables()
    assert rows(first)[0] == [
        "garbage truck",
        "61.2 → 12.3",
        "12 → 88 % [50, 95]",
        "3.00 [2.00, 4.25]",
    ]
    assert rows(first)[1][3] == "-"
    assert rows(second)[0][:5] == ["nothing", "", "-", "12.3", "12 → 88 % [50, 95]"]
    assert rows(second)[1] == [
        *("road", "related", "0.50", "12.3", "12 → 88 % [50, 95]"),
        *("3.00 [2.00, 4.25]", "1.00 [0.00, 2.25]"),
    ]


def test_a_word_stands_with_its_place_and_a_concept_with_its_harm() -> None:
    marked, sample, ends = spectrum_result().tables()
    assert rows(marked)[:2] == [
        ['""', "neutral", "0.0115", "42 % [38, 47]"],
        ["a photo", "neutral", "0.0496", "67 %"],
    ]
    assert rows(sample)[1] == ["word 9", "0.00155", "8 %", "-"]
    assert rows(ends)[0] == ["word 119", "0.332", "word 0", "0.001"]
    *_, concepts = impact_result().tables()
    assert [row[0] for row in rows(concepts)] == [f"concept {i}" for i in range(5, -1, -1)]


@pytest.mark.parametrize("result", RESULTS, ids=NAMES)
def test_pages_hold_sentence_figure_tables_and_command(result) -> None:
    page = observation_page("A title", result, "erasekit observe it")
    assert page.startswith(f"# A title\n\n**{result.sentence}**\n")
    assert "(figure.png)" in page
    assert "    erasekit observe it\n" in page
    for table in result.tables():
        lines = table.markdown().strip().splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]}) == 1
        assert table.markdown() in page
    for remark in result.remarks:
        assert remark in page


@pytest.mark.parametrize("result", RESULTS, ids=NAMES)
def test_figures_are_written_as_png_and_svg(result, tmp_path: Path) -> None:
    png, svg = plot_observation(result, tmp_path)
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert image.width > 600
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    before = svg.read_bytes()
    plot_observation(result, tmp_path)
    assert svg.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "figure.svg"]


@pytest.mark.parametrize(
    "sensitivities", [(0.0,) * 120, (0.5,) * 120, (0.0, *(1.0,) * 119)], ids=str
)
def test_a_spectrum_without_a_spread_is_drawn_all_the_same(sensitivities, tmp_path) -> None:
    result = spectrum_result(sensitivities=sensitivities, neutral=(), targets=(), sample=())
    assert plot_observation(result, tmp_path)[0].stat().st_size > 1000


def test_a_large_impact_figure_shows_the_related_and_the_most_harmed() -> None:
    figure = impact_result(ROWS + 40).figure()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:5] == [
        *("related to garbage truck", "concept 0", "concept 1"),
        *("related to nudity", "concept 2"),
    ]
    assert labels[5] == "57 most harmed others"
    assert labels[6:] == [f"concept {i}" for i in range(ROWS + 39, 42, -1)]


@pytest.mark.parametrize("result", RESULTS, ids=NAMES)
def test_json_has_null_for_what_is_missing(result) -> None:
    data = result_json(result)
    assert data["sentence"] == result.sentence
    assert "nan" not in str(data).lower().replace("banana", "")

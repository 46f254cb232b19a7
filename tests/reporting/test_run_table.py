"""Tables and curves of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from erasekit.reporting.figures import history_figures, plot_history
from erasekit.reporting.run_table import (
    AdversaryUse,
    adversaries_table,
    adversary_uses,
    history_table,
    ranks,
    ranks_table,
    sampled,
    settings_table,
)


def record(step: int, *chosen: str | None, entropy: float | None = None) -> dict[str, Any]:
    """A line of history with one adversary per erased concept ("erased 0", "erased 1", ...)."""
    adversary = [
        {
            "erased": f"erased {e}",
            "concept": words,
            "entropy": entropy,
            "shift": step / 100,
            "nearest": words,
        }
        for e, words in enumerate(chosen)
    ]
    return {
        "step": step,
        "loss": 1.5 / (step + 1),
        "erase_loss": 1 / (step + 1),
        "preserve_loss": 0.5 / (step + 1),
        "timestep": [10],
        "adversary": adversary or None,
    }


CLOSED_FORM = {"step": 0, "loss": None, "erase_loss": None, "preserve_loss": None}


def text_of(table: object) -> str:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(3, 12, [0, 1, 2]), (101, 5, [0, 25, 50, 75, 100]), (10, 2, [0, 9]), (10, 1, [9]), (0, 3, [])],
)
def test_samples_are_spread_and_have_both_ends(
    length: int, count: int, expected: list[int]
) -> None:
    assert [r["step"] for r in sampled([record(i) for i in range(length)], count)] == expected


def test_the_table_names_what_was_preserved() -> None:
    text = text_of(history_table([record(7, "car [red]", entropy=2.25)], title="run"))
    line = " ".join(text.splitlines()[-1].split())
    assert line == "7 0.18750 0.12500 0.06250 car [red] car [red] 2.25 7.0 %"


def test_several_erased_concepts_have_a_line_each() -> None:
    lines = text_of(history_table([record(3, "car", "road")])).rstrip().splitlines()
    assert lines[-2].split()[-6:] == ["erased", "0", "car", "car", "3.0", "%"]
    assert lines[-1].split()[-6:] == ["erased", "1", "road", "road", "3.0", "%"]


def test_the_table_of_a_method_without_adversary_has_losses_alone() -> None:
    text = text_of(history_table([record(0), record(1)]))
    assert "preserved" not in text
    assert "entropy" not in text


def test_the_table_of_a_closed_form_has_no_losses() -> None:
    lines = text_of(history_table([CLOSED_FORM])).rstrip().splitlines()
    assert lines[-1].split() == ["0", "-", "-", "-"]


def test_settings_have_a_column_per_method() -> None:
    text = settings_table({"a": {"steps": ["1", "2"]}, "b": {"rate": ["[red]"]}}).markdown()
    assert text.splitlines()[2:4] == ["| steps | 1 or 2 | - |", "| rate | - | \\[red\\] |"]


def test_adversaries_are_listed_by_what_they_stand_beside() -> None:
    uses = [AdversaryUse("church", "[bold]castle", 3, 0, 5)]
    text = text_of(adversaries_table(uses, {"adversarial": True}, []))
    assert text.rstrip().splitlines()[-1].split() == ["[bold]castle", "church", "3", "0", "5"]


def test_curves_are_a_picture_with_a_panel_for_each_measure(tmp_path: Path) -> None:
    plain, full = tmp_path / "plain.png", tmp_path / "full.png"
    assert plot_history([record(i) for i in range(30)], plain)
    assert plot_history([record(i, "car", entropy=1.0) for i in range(30)], full, "gumbel")
    with Image.open(full) as wide, Image.open(plain) as narrow:
        assert wide.width == 3 * narrow.width
        assert np.asarray(narrow).std() > 1


def test_a_history_without_numbers_has_no_picture(tmp_path: Path) -> None:
    assert not plot_history([CLOSED_FORM], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def words(step: int, *chosen: str | None, nearest: str | None = None) -> dict[str, Any]:
    """A line of history with one adversary per erased concept ("erased 0", "erased 1", ...)."""
    adversary = [
        {"erased": f"erased {e}", "concept": words, "nearest": nearest}
        for e, words in enumerate(chosen)
    ]
    return {"step": step, "adversary": adversary or None}


def test_uses_are_counted_by_step_and_sorted() -> None:
    history = [words(0, "bus, car", "road"), words(1, "car"), words(5, "car")]
    assert adversary_uses(history) == [
        AdversaryUse("erased 0", "car", 3, 0, 5),
        AdversaryUse("erased 0", "bus", 1, 0, 0),
        AdversaryUse("erased 1", "road", 1, 0, 0),
    ]


def test_a_free_embedding_is_named_by_the_nearest_word() -> None:
    history = [words(3, None, nearest="truck"), words(4, None, nearest="truck")]
    assert adversary_uses(history) == [AdversaryUse("erased 0", "truck", 2, 3, 4)]


@pytest.mark.parametrize("history", [[], [words(0)], [words(0, None)], [{"step": 0}]])
def test_there_are_none_where_no_word_was_chosen(history: list[dict[str, Any]]) -> None:
    assert adversary_uses(history) == []


def test_the_top_is_taken_for_each_erased_concept() -> None:
    uses = adversary_uses([words(0, "a, b, c", "d, e, f")], 2)
    assert [use.word for use in uses] == ["a", "b", "d", "e"]


@pytest.mark.parametrize(
    ("info", "heading"),
    [
        ({"adversarial": True}, "Adversarial concepts"),
        ({"adversarial": False}, "Kept concepts"),
        ({}, "Adversarial concepts"),  # an edit of before
    ],
)
def test_kept_words_are_adversarial_where_they_were_searched_for(
    info: dict[str, Any], heading: str
) -> None:
    table = adversaries_table([AdversaryUse("church", "castle", 3, 0, 5)], info, [])
    assert table.title.startswith(heading)
    assert not table.legend


@pytest.mark.parametrize(("entropy", "told"), [(3.40, True), (3.30, True), (3.29, False)])
def test_a_search_that_ended_nearly_uniform_says_so(entropy: float, told: bool) -> None:
    history = [record(0, "bus", entropy=3.466), record(1, "car", entropy=entropy), record(2)]
    for line in history[:2]:
        line["adversary"][0]["uniform"] = 3.466
    uses = adversary_uses(history)
    text = text_of(adversaries_table(uses, {}, history))
    assert ("ended within 5% of uniform" in text) == told
    assert (f"'erased 0' (entropy {entropy:.2f} of at most 3.47)" in text) == told
    for line in history[:2]:
        del line["adversary"][0]["uniform"]
    assert "uniform" not in text_of(adversaries_table(uses, {}, history))


def test_ranks_are_those_that_were_measured() -> None:
    history = [record(0, "bus", "car"), record(4, "car"), record(9, None)]
    history[1]["adversary"][0]["rank"] = 0.25
    history[2]["adversary"][0] |= {"rank": 0.0, "nearest": "road"}
    assert ranks(history) == [
        {"step": 4, "erased": "erased 0", "words": "car", "rank": 0.25},
        {"step": 9, "erased": "erased 0", "words": "road", "rank": 0.0},
    ]
    assert "25 %" in text_of(ranks_table(history))


def test_entropy_stands_on_an_axis_to_that_of_the_uniform_distribution() -> None:
    """A fall from 3.47 to 3.41 should look as small as it is."""
    history = [record(i, "car", entropy=3.47 - i / 500) for i in range(30)]
    for line in history:
        line["adversary"][0] |= {"uniform": 4.0, "rank": 0.3}
    for label, top in (("entropy", 4.0), ("harmed more", 1.0)):
        (figure,) = [f for name, f in history_figures(history).items() if label in name]
        low, high = figure.axes[0].get_ylim()
        assert low == 0
        assert top < high < 1.05 * top
    without = [record(i, "car", entropy=3.47 - i / 500) for i in range(30)]
    (figure,) = [f for name, f in history_figures(without).items() if "entropy" in name]
    assert figure.axes[0].get_ylim() == (0, pytest.approx(1.02 * 3.47))

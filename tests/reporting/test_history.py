"""Tables and curves of a run's history."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from erasekit.reporting.curves import history_figures, plot_history
from erasekit.reporting.history import history_table, sampled


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
    assert line == "7 0.18750 0.12500 0.06250 car [red] car [red] 2.25 7.0%"


def test_several_erased_concepts_have_a_line_each() -> None:
    lines = text_of(history_table([record(3, "car", "road")])).splitlines()
    assert lines[-2].split()[-5:] == ["erased", "0", "car", "car", "3.0%"]
    assert lines[-1].split() == ["erased", "1", "road", "road", "3.0%"]


def test_the_table_of_a_method_without_adversary_has_losses_alone() -> None:
    text = text_of(history_table([record(0), record(1)]))
    assert "preserved" not in text
    assert len(text.strip().splitlines()) == 3


def test_the_table_of_a_closed_form_has_empty_cells() -> None:
    assert text_of(history_table([CLOSED_FORM])).splitlines()[-1].split() == ["0"]


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

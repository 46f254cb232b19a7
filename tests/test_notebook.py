"""Results in a notebook: a table and a picture in place of a repr."""

from __future__ import annotations

from dataclasses import replace

import erasekit
from erasekit import notebook
from erasekit.notebook import tables
from erasekit.reporting.table import Column, Number, Table
from tests.test_library import SMALL
from tests.tiny_clip import build_scorer_folder


def test_a_table_needs_no_script_and_escapes_what_it_shows() -> None:
    table = Table(
        "Cost",
        [Column("concept"), Column("delta", write=Number(1))],
        [{"concept": "<b>bus</b>", "delta": 1.25}],
        legend=("0 is best.",),
    )
    html = tables(table)
    assert "&lt;b&gt;bus&lt;/b&gt;" in html
    assert "<td>1.2</td>" in html
    assert "0 is best." in html
    assert "<script" not in html


def test_what_was_measured_has_a_short_repr_and_a_data_frame(tiny_model, tmp_path) -> None:
    scorer = f"local-dir:{build_scorer_folder(tmp_path)}"
    model = replace(tiny_model, descriptor=replace(tiny_model.descriptor, scorer=scorer))
    edit = erasekit.erase(model, "church", "none", settings=SMALL)
    measured = erasekit.measure(model, edit, images_per_concept=1)
    assert repr(measured).startswith("Measured(church: ESR-1 ")
    assert len(repr(measured)) < 100
    frame = measured.to_pandas()
    assert list(frame["concept"]) == [c.paired.concept for c in measured.concepts]
    assert frame["delta"].isna().tolist() == [c.paired.split == "erased" for c in measured.concepts]
    html = notebook._measured(measured)
    assert "<img src=" in html
    assert "church" in html

"""Tables as files: read back by other programs, they say the same."""

from __future__ import annotations

import csv
import doctest
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from erasekit.errors import MissingExtraError
from erasekit.reporting import forms
from erasekit.reporting.forms import (
    csv_text,
    flat,
    latex_text,
    markdown_text,
    measured_by,
    printed,
    write_table,
)

ABOUT = {
    "model": "tiny",
    "suite": "one",
    "suite_version": "1",
    "protocol": "short",
    "scorer": {"name": "clip", "weights": "a"},
    "classifier": {"name": "r_50", "weights": "b"},
}
BELOW = measured_by(ABOUT)
NASTY = 'a_b & "50 %" #1 | {x} \\ ~^ <y> $z* é'
METHODS = [
    {
        "method": "base",
        "erased": "church",
        "esr1": 0.125,
        "psr1": 0.75,
        "delta_mean": 0.0,
        "delta_ci95": [None, None],
        "delta_pool_mean": 0.0,
        "delta_worst": None,
        "seeds": 0,
    },
    {
        "method": "gumbel",
        "erased": "church",
        "esr1": 1.0,
        "psr1": None,
        "delta_mean": 1 / 3,
        "delta_ci95": [-0.004, 1.239],
        "delta_pool_mean": None,
        "delta_worst": [NASTY, 7.25],
        "seeds": 2,
    },
    {
        "method": "gumbel",
        "erased": "all",
        "esr1": 0.5,
        "psr1": 0.25,
        "delta_mean": 2.5,
        "delta_ci95": [2.0, 3.0],
        "delta_pool_mean": 1.0,
        "delta_worst": ["bus", 1.0],
        "seeds": 2,
        "more": {"p": 0.5},
    },
]
CONCEPTS = [
    {
        "method": "gumbel",
        "erased": "church",
        "concept": NASTY,
        "family": "odd",
        "split": "held-out",
        "delta": 1.005,
        "ci95": [0.5, 1.5],
        "n": 8,
    }
]


def test_the_examples_hold() -> None:
    assert doctest.testmod(forms).failed == 0


def test_csv_comes_back_to_the_last_digit(tmp_path: Path) -> None:
    write_table(METHODS, "methods", "csv", tmp_path / "t.csv", ABOUT)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["base", "gumbel", "gumbel"]
    assert float(rows[1]["delta_mean"]) == 1 / 3
    assert rows[1]["delta_worst_concept"] == NASTY
    assert (rows[1]["delta_ci95_low"], rows[1]["psr1"]) == ("-0.004", "")
    assert [row["more_p"] for row in rows] == ["", "", "0.5"]


def test_parquet_comes_back_with_types_and_nulls(tmp_path: Path) -> None:
    write_table(METHODS, "methods", "parquet", tmp_path / "t.parquet", ABOUT)
    table = parquet.read_table(tmp_path / "t.parquet")
    assert str(table.schema.field("delta_mean").type) == "double"
    assert str(table.schema.field("seeds").type) == "int64"
    assert table.column("psr1").to_pylist() == [0.75, None, 0.25]
    assert table.column("more_p").to_pylist() == [None, None, 0.5]
    assert table.column("delta_worst_concept").to_pylist() == [None, NASTY, "bus"]


@pytest.mark.parametrize("form", ["csv", "parquet", "markdown", "latex"])
@pytest.mark.parametrize(
    ("classifier", "words"), [("r_50", "r_50"), ("clip", "clip zero-shot")], ids=["own", "scorer"]
)
def test_every_table_says_who_told_the_classes_apart(
    tmp_path: Path, form: str, classifier: str, words: str
) -> None:
    judges = {"scorer": {"name": "clip"}, "classifier": {"name": classifier}}
    write_table(METHODS, "methods", form, tmp_path / "t", {**ABOUT, **judges})
    if form == "parquet":
        assert set(parquet.read_table(tmp_path / "t").column("classifier").to_pylist()) == {words}
        return
    text = (tmp_path / "t").read_text(encoding="utf-8").replace("\\", "")
    lines = text.splitlines()
    if form == "csv":
        assert {row["classifier"] for row in csv.DictReader(lines)} == {words}
    else:
        assert text.count(f"classes by {words}.") == 1


def test_a_column_without_a_value_keeps_its_type(tmp_path: Path) -> None:
    row = {"harmed": None, "harmed_note": None, "delta_worst": None, "seeds": 1}
    write_table([row], "methods", "parquet", tmp_path / "t", ABOUT)
    schema = parquet.read_schema(tmp_path / "t")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["harmed"] == types["delta_worst"] == "double"
    assert types["harmed_note"] == types["delta_worst_concept"] == "string"


def test_comparisons_and_matched_erasure_are_printed() -> None:
    compared = {"erased": "church", "method": "a", "other": "b", "ci95": [-1.1, -0.5]}
    header, body = printed(
        [
            {**compared, "difference": -0.8, "p_value": 0.0421},
            {**compared, "difference": -0.8, "p_value": 1e-9},
            {**compared, "difference": None, "p_value": None, "ci95": [None, None]},
        ],
        "comparisons",
    )
    assert header[3:] == ["Difference of delta", "95 % interval", "p (Holm)"]
    assert body[0] == ["church", "a", "b", "-0.80", "[-1.10, -0.50]", "0.042"]
    assert [row[-1] for row in body[1:]] == ["< 0.001", "–"]
    header, body = printed(
        [{**compared, "esr1": 0.9, "difference": -0.8, "p_value": 0.0421}], "matched-comparisons"
    )
    assert header[:4] == ["Erased", "Method", "Other", "ESR-1 (%)"]
    assert body == [["church", "a", "b", "90.0", "-0.80", "[-1.10, -0.50]", "0.042"]]
    never = {"erased": "church", "method": "a", "esr1": 0.95, "delta": None, "ci95": [None, None]}
    found = {**never, "esr1": 0.9, "delta": 1.25, "ci95": [1.0, 1.5], "step": 84.4}
    _, rows = printed([found, {**never, "step": None}], "matched")
    assert rows == [
        ["church", "a", "90.0", "1.25", "[1.00, 1.50]", "84"],
        ["church", "a", "95.0", "–", "–", "–"],
    ]


def test_parquet_without_its_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"erasekit\[tables\]"):
        write_table(METHODS, "methods", "parquet", tmp_path / "t.parquet", ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_markdown_is_a_table_of_as_many_cells_everywhere() -> None:
    lines = markdown_text(*printed(CONCEPTS, "concepts"), BELOW).splitlines()
    judged = "alignment by clip, classes by r\\_50."
    assert lines[-2:] == ["", f"one 1 on tiny, short protocol; {judged}"]
    lines = lines[:-2]
    assert lines[1] == "| :-- | :-- | :-- | :-- | --: | --: | --: |"
    bare = [line.replace("\\\\", "").replace("\\|", "") for line in lines]
    assert {line.count("|") for line in bare} == {8}
    methods = markdown_text(*printed(METHODS, "methods"), BELOW).splitlines()
    assert methods[2] == "| church | base | 12.5 | 75.0 | – | – | – | – |"
    assert methods[3] == "| church | gumbel | 100.0 | – | 0.33 | [0.00, 1.24] | – | 2 |"


def test_latex_has_booktabs_rules_and_says_what_it_needs() -> None:
    text = latex_text(*printed(METHODS, "methods"), BELOW)
    for rule in (
        r"\toprule",
        r"\bottomrule",
        r"\begin{tabular}{llrrrrrr}",
        r"\usepackage{booktabs}",
    ):
        assert text.count(rule) == 1
    assert text.count(r"\midrule") == 2
    assert r"church & gumbel & 100.0 & -- & 0.33 & [0.00, 1.24] & -- & 2 \\" in text
    assert r"ESR-1 (\%) $\uparrow$" in text


def test_the_best_delta_and_those_tied_with_it_stand_out() -> None:
    best, tied, worse = ({**METHODS[1], "method": name} for name in ("a", "b", "c"))
    table = printed([METHODS[0], {**best, "best": True}, {**tied, "tied": True}, worse], "methods")
    lines = markdown_text(*table, BELOW).splitlines()
    deltas = [line.split(" | ")[4] for line in lines[2:6]]
    assert deltas == ["–", "**0.33**", "*0.33*", "0.33"]
    assert lines[-1].endswith("Bold: the smallest delta of its set; italic: can't be told from it.")
    text = latex_text(*table, BELOW)
    assert text.count(r"& \textbf{0.33} &") == text.count(r"& \underline{0.33} &") == 1
    assert "underlined: can't be told from it." in text
    assert "Bold" not in markdown_text(*printed([METHODS[0], worse], "methods"), BELOW)


@given(st.text(alphabet=st.characters(codec="latin-1", exclude_categories=["Cc"])))
def test_no_name_breaks_a_latex_row(name: str) -> None:
    row = {**CONCEPTS[0], "concept": name}
    line = latex_text(*printed([row], "concepts"), BELOW).splitlines()[5]
    bare = line.replace(r"\textbackslash{}", "").replace(r"\&", "").replace(r"\%", "")
    assert bare.count("&") == 6
    assert "%" not in bare
    assert bare.count("{") - bare.count(r"\{") == bare.count("}") - bare.count(r"\}")


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        min_size=1,
    )
)
def test_plain_rows_stay_as_they_are(row: dict[str, object]) -> None:
    assert flat(row) == row
    (read,) = csv.DictReader(io.StringIO(csv_text([row]), newline=""))
    assert read == {key: "" if value is None else str(value) for key, value in row.items()}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    odd = [*CONCEPTS, *({**CONCEPTS[0], "erased": name} for name in ("[x]", "*", NASTY))]
    marked = [{**METHODS[1], "best": True}, {**METHODS[2], "tied": True}]
    kinds = ((METHODS, "methods"), (marked, "methods"), (odd, "concepts"))
    tables = [latex_text(*printed(rows, what), BELOW) for rows, what in kinds]
    (tmp_path / "t.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}"
        + "\n\\begin{document}\n"
        + "\n\n".join(tables)
        + "\n\\end{document}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_json_lists_survive() -> None:
    assert json.loads(flat({"p": [1, 2, 3]})["p"]) == [1, 2, 3]

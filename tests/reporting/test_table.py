"""One table in every form: read back by other programs, it says the same."""

from __future__ import annotations

import csv
import doctest
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console

from erasekit.errors import MissingExtraError
from erasekit.metrics.scores import Estimate
from erasekit.reporting import table as module
from erasekit.reporting.table import (
    Column,
    Number,
    Table,
    code,
    flat,
    latex_text,
    markdown_text,
    p_value,
    thousands,
)

NASTY = 'a_b & "50 %" #1 | {x} \\ ~^ <y> $z* é'
NAN = float("nan")
COLUMNS = (
    Column("name"),
    Column("rate", "ESR-1", Number(0, share=True, interval=True), "higher"),
    Column(
        "delta", "delta\nheld-out", Number(2, interval=True), "lower", mark=lambda row: row["mark"]
    ),
    Column("count", write=Number(0), narrow=(1, None)),
)
ROWS = [
    {"name": "base", "rate": Estimate(0.125, 8), "delta": None, "count": 1, "mark": ""},
    {
        "name": NASTY,
        "rate": (Estimate(0.125, 8), Estimate(0.9375, 16, 0, 0.72, 0.99)),
        "delta": Estimate(1 / 3, 8, 0, -0.004, 1.239),
        "count": 1234,
        "mark": "best",
    },
    {"name": "c", "rate": NAN, "delta": Estimate(-0.004, 8), "count": 3, "mark": "tied"},
]
TABLE = Table("All of them", COLUMNS, ROWS, ["measured by a_b."], filters=("name",))


def printed(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(table)
    return console.file.getvalue()


def test_the_examples_hold() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("write", "value", "text", "limits"),
    [
        (Number(), Estimate(1 / 3, 8, 0, -0.004, 1.239), "0.33", ""),
        (Number(interval=True), Estimate(1 / 3, 8, 0, -0.004, 1.239), "0.33", "[0.00, 1.24]"),
        (Number(2, sign=True, interval=True), Estimate(1, 8, 0, 0, 2), "+1.00", "[0.00, 2.00]"),
        (Number(1), (31.25, 12.34), "31.2 → 12.3", ""),
        (Number(0, share=True, interval=True), (0.06, Estimate(0.94, 9, 0, 0.7, 1)),
         "6 → 94 %", "[70, 100]"),
        (Number(0, share=True), (0.06, NAN), "-", ""),
        (Number(0, share=True), (NAN, 0.94), "94 %", ""),
        (Number(), Estimate(NAN, 0), "-", ""),
        (Number(), -0.001, "0.00", ""),
        (Number(0), 3, "3", ""),
    ],
)  # fmt: skip
def test_numbers_are_written_in_one_way(write: Number, value, text: str, limits: str) -> None:
    assert (write(value), write.limits(value)) == (text, limits)


def test_large_numbers_and_p_values() -> None:
    assert [thousands(x) for x in (12_345, 123_456, NAN, None)] == ["12.3k", "123k", "-", "-"]
    assert [p_value(x) for x in (0.0421, 1e-9, NAN)] == ["0.042", "< 0.001", "-"]


def test_a_terminal_sees_names_as_text_and_marks() -> None:
    text = printed(Table("[red]title", COLUMNS, [{**ROWS[1], "name": "[bold]x[/] :fire:"}]))
    assert "[red]title" in text
    assert "[bold]x[/] :fire:" in text
    assert "12 → 94 % [72, 99]" in text
    assert "*0.33 [0.00, 1.24]" in text
    assert "*best." in text


def test_columns_go_and_change_places_until_a_terminal_has_room() -> None:
    short = Column("delta", "short", Number(1))
    long = Column("delta", "long heading", Number(4), narrow=(1, short))
    columns = [COLUMNS[0], long, Column("n" * 9, value=lambda row: 1, narrow=(2, None))]
    table = Table("", columns, [{"name": "aaaa", "delta": 1.0}])
    heads = {width: printed(table, width).split("\n")[0].split() for width in (40, 23, 12)}
    assert heads[40] == ["name", "long", "heading", "n" * 9]
    assert heads[23] == ["name", "short", "n" * 9]
    assert heads[12] == ["name", "short"]


def test_what_is_too_wide_for_the_narrowest_layout_is_broken_into_tables() -> None:
    columns = [
        Column("name"),
        *(Column(f"column{i}", value=lambda row: "xxxxxxxx") for i in range(6)),
    ]
    text = printed(Table("", columns, [{"name": "row"}]), 40)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("row") == 2
    assert all(f"column{i}" in text for i in range(6))


def test_a_terminal_shows_the_first_rows_and_says_how_many_more() -> None:
    text = printed(Table("", [Column("a")], [{"a": i} for i in range(9)], most=3))
    assert [line.strip() for line in text.splitlines() if line.strip().isdigit()] == ["0", "1", "2"]
    assert "6 more in the files" in text


def test_a_column_without_a_value_is_left_out_where_it_may_be() -> None:
    table = Table("", [Column("a"), Column("b", optional=True)], [{"a": "x", "b": None}])
    assert [column.key for column in table.shown("page")] == ["a"]


def test_a_legend_has_two_lines_at_most() -> None:
    with pytest.raises(ValueError, match="two lines at most, not 3"):
        Table("", [Column("a")], [], ["1", "2", "3"])


def test_csv_comes_back_to_the_last_digit(tmp_path: Path) -> None:
    TABLE.write("csv", tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["base", NASTY, "c"]
    assert float(rows[1]["delta"]) == 1 / 3
    assert (rows[1]["delta_ci95_low"], rows[1]["rate_before"]) == ("-0.004", "0.125")
    assert rows[2]["rate"] == ""


def test_json_has_the_same_fields(tmp_path: Path) -> None:
    TABLE.write("json", tmp_path / "t.json")
    rows = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert rows[1] == {
        "name": NASTY,
        "rate_before": 0.125,
        "rate": 0.9375,
        "rate_ci95": [0.72, 0.99],
        "delta": 1 / 3,
        "delta_ci95": [-0.004, 1.239],
        "count": 1234,
    }
    assert rows[2]["rate"] is None


def test_parquet_comes_back_with_types_and_nulls(tmp_path: Path) -> None:
    TABLE.write("parquet", tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert str(table.schema.field("delta").type) == "double"
    assert str(table.schema.field("count").type) == "int64"
    assert table.column("rate").to_pylist() == [0.125, 0.9375, None]
    assert table.column("name").to_pylist() == ["base", NASTY, "c"]


def test_data_stands_in_place_of_the_columns(tmp_path: Path) -> None:
    row = {"harmed": None, "harmed_note": None, "delta_worst": None, "seeds": 1, "more": {"p": [1]}}
    table = Table("", [Column("a")], [{"a": 1}], data=[row])
    table.write("parquet", tmp_path / "t")
    schema = parquet.read_schema(tmp_path / "t")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["harmed"] == types["delta_worst"] == "double"
    assert types["harmed_note"] == types["delta_worst_concept"] == "string"
    assert json.loads(next(csv.DictReader(io.StringIO(table.csv(), newline="")))["more_p"]) == [1]


def test_parquet_without_its_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"erasekit\[tables\]"):
        TABLE.write("parquet", tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_markdown_is_a_table_of_as_many_cells_everywhere() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "| name | ESR-1 (%) ↑ | delta, held-out ↓ | count |"
    assert lines[1] == "| :-- | --: | --: | --: |"
    bare = [line.replace("\\\\", "").replace("\\|", "") for line in lines[:5]]
    assert {line.count("|") for line in bare} == {5}
    assert lines[2] == "| base | 12.5 | – | 1 |"
    assert lines[3].endswith("| 12.5 → 93.8 [72.0, 99.0] | **0.33 [0.00, 1.24]** | 1234 |")
    assert lines[4] == "| c | – | *0.00* | 3 |"
    below = "measured by a\\_b. Bold: the smallest delta of its set; italic: can't be told from it."
    assert lines[5:] == ["", below]


@pytest.mark.parametrize(
    "name",
    [
        "[x](javascript:alert(1))",
        "![x](http://y/z.png)",
        "<img src=x onerror=alert(1)>",
        "https://evil.example",
        "www.evil.example",
        "a@evil.example",
        "`rm -rf`",
        "~~gone~~ **bold** _it_",
        "a\n\n# heading",
        "&lt;b&gt; $x$",
    ],
)
def test_no_name_is_markup_in_markdown(name: str) -> None:
    text = markdown_text(name)
    assert "\n" not in text
    shown = re.sub(r"\\(.)", "", text)  # what is left has no sign that means anything
    assert not re.search(r"[\[\]<`*_~$&@!|]|://|www\.", shown)


def test_code_holds_any_backticks() -> None:
    assert code("a") == "`a`"
    assert code("a``b") == "``` a``b ```"
    assert code("x\n```\ny", block=True) == "````\nx\n```\ny\n````"


def test_latex_has_booktabs_rules_and_says_what_it_needs() -> None:
    text = TABLE.latex()
    for rule in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\begin{tabular}{lrrr}",
        r"\usepackage{booktabs}",
    ):
        assert text.count(rule) == 1
    assert r"base & 12.5 & -- & 1 \\" in text
    assert r"ESR-1 (\%) $\uparrow$" in text
    assert text.count(r"& \textbf{0.33 [0.00, 1.24]} &") == 1
    assert "underlined: can't be told from it." in text
    grouped = Table("", COLUMNS, {"one": ROWS[:1], "two": ROWS[2:]}).latex()
    assert grouped.count(r"\midrule") == 2


@given(st.text(alphabet=st.characters(codec="latin-1")))
def test_no_name_breaks_a_latex_row(name: str) -> None:
    line = Table("", COLUMNS, [{**ROWS[1], "name": name}]).latex().splitlines()[5]
    bare = line.replace(r"\textbackslash{}", "").replace(r"\&", "").replace(r"\%", "")
    assert bare.count("&") == 3
    assert "%" not in bare
    assert bare.count("{") - bare.count(r"\{") == bare.count("}") - bare.count(r"\}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    odd = [{**ROWS[1], "name": name} for name in ("[x]", "*", NASTY)]
    tables = [TABLE.latex(), Table("", COLUMNS, odd).latex()]
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


def test_html_shows_names_as_text_and_sorts_by_numbers() -> None:
    html = Table("<i>t", COLUMNS, [{**row, "name": f"<b>{row['name']}"} for row in ROWS]).html("x")
    assert "<b>" not in html
    assert "<i>" not in html
    assert 'data-sort="0.9375"' in html
    assert html.count("<tr data-item") == 3


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        min_size=1,
    )
)
def test_plain_rows_stay_as_they_are(row: dict[str, object]) -> None:
    assert flat(row) == row
    (read,) = csv.DictReader(io.StringIO(Table("", [], [], data=[row]).csv(), newline=""))
    assert read == {key: "" if value is None else str(value) for key, value in row.items()}


def test_latex_shows_every_sign() -> None:
    assert latex_text("a_b 50 % → †") == r"a\_b 50 \% $\rightarrow$ \dag{}"

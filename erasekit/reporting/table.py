"""One table, written to a terminal, HTML, Markdown, LaTeX, CSV, JSON and Parquet.

Names of others (concepts, models, methods) are text in every form, never markup.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from erasekit.errors import MissingExtraError
from erasekit.files import atomic_path, atomic_write_text
from erasekit.metrics.scores import Estimate, nan_to_null
from erasekit.reporting.glossary import GLOSSARY

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FORMS = ("csv", "parquet", "json", "html", "markdown", "latex")
"""Forms of a file."""
Better = Literal["", "higher", "lower"]
ARROWS = {"": "", "higher": "↑", "lower": "↓"}
MISSING, DASH = "-", "–"
"""A number that is not known: in the terminal and on a page, and in the tables of papers."""
Mark = Literal["", "best", "tied", "harmed"]
_MEANINGS = {name.lower(): meaning for name, meaning in GLOSSARY.items()}
UNBOUNDED = 10_000
"""Width of a console in which every table has the width it wants."""


@dataclass(frozen=True)
class Number:
    """How a number is written, or an `Estimate`, or two of them as "before → after".

    Args:
        digits: decimals.
        share: it is a share of 1, written in per cent.
        sign: a plus sign stands before what is above 0.
        interval: the 95 % limits of an `Estimate` follow in brackets.
    """

    digits: int = 2
    share: bool = False
    sign: bool = False
    interval: bool = False

    def __call__(self, value: Any, unit: bool = True) -> str:
        """The value without its interval; `unit` says whether "%" is written, else one digit more.

        >>> Number(0, share=True)((0.06, 0.9375)), Number(1)(-0.04), Number()(float("nan"))
        ('6 → 94 %', '0.0', '-')
        """
        values = value if isinstance(value, tuple) else (value,)
        texts = [self._one(_plain(one), unit) for one in values]
        if texts[-1] == MISSING:
            return MISSING
        text = " → ".join(text for text in texts if text != MISSING)
        return f"{text} %" if self.share and unit else text

    def limits(self, value: Any, unit: bool = True) -> str:
        """The limits of the last `Estimate` in brackets, "" where they are not known."""
        last = value[-1] if isinstance(value, tuple) else value
        if not self.interval or not isinstance(last, Estimate) or last.interval is None:
            return ""
        return f"[{', '.join(self._one(limit, unit, sign=False) for limit in last.interval)}]"

    def _one(self, value: float | None, unit: bool, sign: bool = True) -> str:
        if value is None or math.isnan(value):
            return MISSING
        digits = self.digits + (self.share and not unit)
        shown = round(100 * value if self.share else value, digits) + 0.0  # no "-0.0"
        return f"{shown:{'+' if self.sign and sign else ''}.{digits}f}"


def thousands(value: float | None) -> str:
    """A large number, such as "12.3k"."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value / 1000:.1f}k" if value < 100_000 else f"{value / 1000:.0f}k"


def p_value(p: float | None) -> str:
    """Three decimals, or "< 0.001"."""
    if p is None or math.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(share: float) -> str:
    """A share of 1 in whole per cent."""
    return Number(0, share=True)(share)


def with_interval(estimate: Estimate) -> str:
    """A mean with its 95 % limits."""
    write = Number(2, interval=True)
    return f"{write(estimate)} {write.limits(estimate)}".rstrip()


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown.

    Attributes:
        text: the value.
        remark: its interval, or "".
        sort: what it is sorted by, or "".
        mark: a `Mark`.
    """

    text: str
    remark: str = ""
    sort: str = ""
    mark: str = ""

    def __str__(self) -> str:
        text = _SIGNS[self.mark][0].format(self.text) if self.mark else self.text
        return f"{text} {self.remark}".rstrip()


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in JSON and CSV; a row's key or attribute unless there is `value`.
        heading: "" takes the key; a line break stands where a narrow heading breaks.
        write: how a value is written; a `Number`, or what gives a text.
        better: which direction is good.
        value: takes the value from a row; None leaves a cell empty, NaN is a number not known.
        mark: what marks a row's cell, a `Mark`.
        left: it stands to the left; None says so of what is no number.
        media: where it is shown: "terminal", "page" (HTML), "paper" (Markdown and LaTeX).
        optional: it is left out where no row has a value.
        drop: the step of a narrowing terminal at which it goes; 0 keeps it.
        narrow: the step at which another column takes its place, and that column.
        help: what it means; "" looks its key and its heading up in the glossary.
    """

    key: str
    heading: str = ""
    write: Number | Callable[[Any], str] = str
    better: Better = ""
    value: Callable[[Any], Any] | None = None
    mark: Callable[[Any], str] | None = None
    left: bool | None = None
    media: str = "terminal page paper"
    optional: bool = False
    drop: int = 0
    narrow: tuple[int, Column] | None = None
    help: str = ""

    @property
    def to_the_left(self) -> bool:
        """Whether it holds words."""
        return self.write is str if self.left is None else self.left

    @property
    def meaning(self) -> str:
        """What it means, or ""."""
        names = (self.key.replace("_", " "), *reversed(self.heading.split("\n")))
        found = (_MEANINGS.get(name.lower(), "") for name in names)
        return self.help or next(filter(None, found), "")

    def of(self, row: Any) -> Any:
        """The value in a row."""
        if self.value is not None:
            return self.value(row)
        return row.get(self.key) if isinstance(row, Mapping) else getattr(row, self.key)

    def cell(self, row: Any, *, unit: bool = True) -> Cell:
        """The cell in a row; without `unit` as a paper's table has it."""
        value = self.of(row)
        if value is None:
            return Cell("")
        mark = self.mark(row) if self.mark else ""
        number = self.write if isinstance(self.write, Number) else None
        text = number(value, unit) if number else self.write(value)
        return Cell(text, number.limits(value, unit) if number else "", _sort(value), mark)

    def title(self, medium: str) -> str:
        """The heading with the good direction."""
        name = self.heading or self.key.replace("_", " ")
        arrow = ARROWS[self.better] if medium != "page" else ""
        if medium == "terminal":
            return name if not arrow else f"{name} {arrow}" if "\n" in name else f"{name}\n{arrow}"
        name = name.replace("\n", ", " if medium == "paper" else " ")
        if medium == "paper" and isinstance(self.write, Number) and self.write.share:
            name += " (%)"
        return f"{name} {arrow}".strip()


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Print it with rich: it drops and narrows columns until it fits, and breaks into several where
    even that is too wide.

    Attributes:
        title: what it shows.
        columns: the first names the rows.
        rows: mappings or objects that the columns read; a mapping of titles to rows groups them.
        legend: what a reader must know, two lines at most.
        pinned: whether a row stays on top however a page sorts it.
        filters: keys of columns that a page filters by.
        data: what CSV, JSON and Parquet hold in place of the columns' values.
        most: rows that a terminal shows; 0 shows all.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Any] | Mapping[str, Sequence[Any]]
    legend: Sequence[str] = ()
    pinned: Callable[[Any], bool] = lambda row: False
    filters: Sequence[str] = ()
    data: Sequence[Mapping[str, Any]] | None = None
    most: int = 0

    def __post_init__(self) -> None:
        if len(self.legend) > 2:
            raise ValueError(f"a legend has two lines at most, not {len(self.legend)}")

    @property
    def groups(self) -> Mapping[str, Sequence[Any]]:
        """Rows by their title, "" where they have none."""
        return self.rows if isinstance(self.rows, Mapping) else {"": self.rows}

    @property
    def all_rows(self) -> list[Any]:
        """The rows of all groups."""
        return [row for rows in self.groups.values() for row in rows]

    @property
    def caption(self) -> str:
        """Title and legend as sentences, for a page."""
        title = self.title if not self.title or self.title.endswith(".") else f"{self.title}."
        return " ".join(filter(None, (title, *self.legend)))

    def shown(self, medium: str) -> list[Column]:
        """The columns that a medium has."""
        return [
            column
            for column in self.columns
            if medium in column.media.split()
            and not (column.optional and all(_unknown(column.of(row)) for row in self.all_rows))
        ]

    # terminal

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        for place, table in enumerate(self._fitting(console, options)):
            if place:
                yield Text()
            yield table
        marks = ", ".join(f"{_SIGNS[mark][1]}{mark}" for mark in self._marks())
        last = " ".join((*self.legend[-1:], *([f"{marks}."] if marks else [])))
        for line in filter(None, (*self.legend[:-1], last)):
            yield Text(line, style="dim")

    def _fitting(self, console: Console, options: ConsoleOptions) -> list[RichTable]:
        """The widest layout that fits; below the narrowest, tables of fewer columns each."""
        columns = self.shown("terminal")
        last = max(max(c.drop, c.narrow[0] if c.narrow else 0) for c in columns)
        unbounded = options.update(max_width=UNBOUNDED)

        def fits(tables: Sequence[RichTable]) -> bool:
            widths = (Measurement.get(console, unbounded, table).maximum for table in tables)
            return max(widths, default=0) <= options.max_width

        for step in range(last + 1):
            tables = self._rich([_at(c, step) for c in columns if not 0 < c.drop <= step])
            if fits(tables):
                return tables
        first, *rest = [_at(c, last) for c in columns if not c.drop]
        for size in range(len(rest) - 1, 0, -1):
            parts = [rest[start : start + size] for start in range(0, len(rest), size)]
            broken = [table for part in parts for table in self._rich([first, *part])]
            if fits(broken):
                return broken
        return tables

    def _rich(self, columns: Sequence[Column]) -> list[RichTable]:
        return [self._rich_group(name, rows, columns) for name, rows in self.groups.items()]

    def _rich_group(self, name: str, rows: Sequence[Any], columns: Sequence[Column]) -> RichTable:
        title = ". ".join(filter(None, (self.title, name)))
        shown = rows[: self.most] if self.most else rows
        more = f"{len(rows) - len(shown)} more in the files" if len(shown) < len(rows) else None
        table = RichTable(
            title=Text(title) if title else None,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
            show_edge=False,
            min_width=min(max(len(title), len(more or "")), 78),
            caption=more,
            caption_justify="left",
        )
        for place, column in enumerate(columns):
            table.add_column(
                Text(column.title("terminal")),
                justify="left" if column.to_the_left else "right",
                style="cyan" if place == 0 else None,
                no_wrap=not column.to_the_left or place == 0,
                overflow="fold",
            )
        for row in shown:
            cells = [column.cell(row) for column in columns]
            styles = {"best": "bold green", "tied": "green"}
            texts = [Text(str(cell), style=styles.get(cell.mark, "")) for cell in cells]
            table.add_row(*texts, end_section=self.pinned(row))
        return table

    # pages and papers

    def html(self, name: str = "table") -> Markup:
        """A `<table>` of that id with its filters; the page's script sorts and filters it."""
        columns = self.shown("page")
        filters = {column.key: column for column in columns if column.key in self.filters}
        choices = {
            key: list(dict.fromkeys(column.cell(row).text for row in self.all_rows))
            for key, column in filters.items()
        }
        template = templates().get_template("table.html")
        return template.module.table(  # type: ignore[attr-defined,no-any-return]
            table=self,
            id=name,
            columns=columns,
            choices={key: own for key, own in choices.items() if len(own) > 1},
            searchable=len(self.all_rows) > 5,
        )

    def markdown(self) -> str:
        """A table in GitHub's Markdown, and its legend as a paragraph."""
        columns = self.shown("paper")
        lines = [[markdown_text(column.title("paper")) for column in columns]]
        lines.append([":--" if column.to_the_left else "--:" for column in columns])
        for row in self.all_rows:
            lines.append([self._paper_cell(c, row, markdown_text, _MARKDOWN) for c in columns])
        legend = " ".join((*self.legend, *self._told(_MARKDOWN)))
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return table + (f"\n{markdown_text(legend)}\n" if legend else "")

    def latex(self) -> str:
        r"""A `tabular` with the rules of booktabs, ready for `\input`; a rule between groups."""
        columns = self.shown("paper")
        lines = [
            r"% needs \usepackage{booktabs} and, for quotation marks, \usepackage[T1]{fontenc}",
            rf"\begin{{tabular}}{{{''.join('l' if c.to_the_left else 'r' for c in columns)}}}",
            r"\toprule",
            _latex_line([latex_text(column.title("paper")) for column in columns]),
        ]
        for rows in self.groups.values():
            lines.append(r"\midrule")
            for row in rows:
                cells = [self._paper_cell(column, row, latex_text, _LATEX) for column in columns]
                lines.append(_latex_line(cells))
        lines.append(r"\bottomrule")
        for line in (*self.legend, *self._told(_LATEX)):
            note = rf"{{\footnotesize {latex_text(line)}}}"
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{note} \\")
        return "\n".join([*lines, r"\end{tabular}", ""])

    def _paper_cell(
        self, column: Column, row: Any, escape: Callable[[str], str], marks: _Marks
    ) -> str:
        cell = column.cell(row, unit=False)
        text = escape(f"{cell.text} {cell.remark}".strip())
        missing = text in ("", escape(MISSING)) and not column.to_the_left
        text = escape(DASH) if missing else text
        return marks[cell.mark][0].format(text) if cell.mark in marks else text

    def _marks(self) -> list[str]:
        """The marks that occur."""
        there = {c.mark(row) for c in self.columns if c.mark for row in self.all_rows}
        return [mark for mark in _SIGNS if mark in there]

    def _told(self, marks: _Marks) -> list[str]:
        """What stands out, in words."""
        told = "; ".join(f"{marks[mark][1]}: {_MEANT[mark]}" for mark in self._marks())
        return [f"{told[:1].upper()}{told[1:]}."] if told else []

    # programs

    def records(self) -> list[dict[str, Any]]:
        """The rows as plain data: `data`, or the columns' values, an interval as `KEY_ci95`."""
        if self.data is not None:
            return [dict(row) for row in self.data]
        return [
            {
                name: value
                for column in self.columns
                for name, value in _fields(column.key, column.of(row)).items()
            }
            for row in self.all_rows
        ]

    def json(self) -> str:
        """A list of objects."""
        return json.dumps(nan_to_null(self.records()), indent=2, ensure_ascii=False) + "\n"

    def csv(self) -> str:
        """Comma-separated as in RFC 4180, quoted where needed; floats as Python writes them."""
        rows = [flat(row) for row in nan_to_null(self.records())]
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def write(self, form: str, path: Path) -> None:
        """Write it to a file in one of `FORMS`.

        Raises:
            MissingExtraError: Parquet without pyarrow.
            OutputError: the file can't be written.
        """
        if form == "parquet":
            _write_parquet([flat(row) for row in nan_to_null(self.records())], path)
        else:
            atomic_write_text(path, str(getattr(self, form)()))


@cache
def templates() -> Environment:
    """The templates of pages; whatever goes into them stands there as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of plain values: intervals become two fields, a worst concept a name and a value.

    >>> flat({"ci95": [1.0, 2.0], "delta_worst": ["bus", 3.5]})
    {'ci95_low': 1.0, 'ci95_high': 2.0, 'delta_worst_concept': 'bus', 'delta_worst': 3.5}
    """
    result: dict[str, Any] = {}
    for key, value in row.items():
        if key.endswith("ci95"):
            result[f"{key}_low"], result[f"{key}_high"] = value or (None, None)
        elif key == "delta_worst":
            result["delta_worst_concept"], result[key] = value or (None, None)
        elif isinstance(value, Mapping):
            result |= flat({f"{key}_{inner}": item for inner, item in value.items()})
        elif isinstance(value, list | tuple):
            result[key] = json.dumps(value, ensure_ascii=False)
        else:
            result[key] = value
    return result


_MEANT = {
    "best": "the smallest delta of its set",
    "tied": "can't be told from it",
    "harmed": "significantly above 0",
}
_Marks = Mapping[str, tuple[str, str]]
"""How a marked cell stands out, and what that is called."""
_SIGNS: _Marks = {"best": ("*{}", "*"), "tied": ("~{}", "~"), "harmed": ("{}†", "†")}
_MARKDOWN: _Marks = {**_SIGNS, "best": ("**{}**", "bold"), "tied": ("*{}*", "italic")}
_LATEX: _Marks = {
    "best": (r"\textbf{{{}}}", "bold"),
    "tied": (r"\underline{{{}}}", "underlined"),
    "harmed": (r"{}\dag{{}}", "†"),
}
_LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    DASH: "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "†": r"\dag{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
_LINKS = re.compile(r"(?<=\w):(?=//)|(?<=www)\.", re.IGNORECASE)
_INTERVAL = re.compile(r"^[-+\d.,→ %]*(\[[-\d., ]+\])?$")


def markdown_text(text: str) -> str:
    r"""`text` as Markdown that shows it: no markup, link, image or HTML comes of it.

    >>> print(markdown_text("a_b | <b> [x](http://y)"))
    a\_b \| \<b> \[x\](http\://y)
    """
    text = _CONTROLS.sub(" ", text)
    if _INTERVAL.match(text):
        return text
    text = re.sub(r"([\\|*_`<\[\]~$@&!])", r"\\\1", text)
    return _LINKS.sub(lambda found: f"\\{found[0]}", text)


def code(text: str, *, block: bool = False) -> str:
    """`text` as code in Markdown, behind as many backticks as it takes."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    if block:
        fence = "`" * max(longest + 1, 3)
        return f"{fence}\n{text}\n{fence}"
    ticks = "`" * (longest + 1)
    inner = _CONTROLS.sub(" ", text)
    return f"{ticks} {inner} {ticks}" if longest else f"{ticks}{inner}{ticks}"


def latex_text(text: str) -> str:
    """`text` as LaTeX that shows it."""
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in _CONTROLS.sub(" ", text))


def _latex_line(cells: Sequence[str]) -> str:
    line = " & ".join(cells)
    shield = "{}" if line.startswith(("[", "*")) else ""  # else an argument of the last line's \\
    return rf"{shield}{line} \\"


def _at(column: Column, step: int) -> Column:
    """The column at a step of a narrowing terminal."""
    while column.narrow and step >= column.narrow[0]:
        column = column.narrow[1]
    return column


def _plain(value: Any) -> float | None:
    return value.value if isinstance(value, Estimate) else value


def _unknown(value: Any) -> bool:
    """Whether nothing is known: None or NaN."""
    value = _plain(value[-1] if isinstance(value, tuple) else value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def _sort(value: Any) -> str:
    """What a cell is sorted by: its last number; "" stands for its text, or nothing."""
    value = _plain(value[-1] if isinstance(value, tuple) else value)
    return "" if _unknown(value) or not isinstance(value, int | float) else repr(value)


def _fields(key: str, value: Any) -> dict[str, Any]:
    """A column's value as JSON has it; of two numbers the second, the first as `KEY_before`."""
    if isinstance(value, Estimate):
        limits = {} if value.interval is None else {f"{key}_ci95": [value.low, value.high]}
        return {key: value.value, **limits}
    if isinstance(value, tuple) and len(value) == 2 and not isinstance(value[0], str):
        return {f"{key}_before": _plain(value[0]), **_fields(key, value[1])}
    return {key: value}


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Parquet", "tables") from error
    names = dict.fromkeys(key for row in rows for key in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        empty = all(value is None for value in values)
        # A column without a value has the type that it has in other tables.
        kind = ("string" if name.endswith(("note", "concept")) else "double") if empty else None
        columns[name] = pyarrow.array(values, kind)
    with atomic_path(path) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)

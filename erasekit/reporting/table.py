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
STEPS = 12
"""Steps in which a table narrows until a terminal has room for it."""
_MEANINGS = {name.lower(): meaning for name, meaning in GLOSSARY.items()}


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

    def whole(self, value: Any) -> str:
        """The value with its limits."""
        return f"{self(value)} {self.limits(value)}".rstrip()

    def _one(self, value: float | None, unit: bool, sign: bool = True) -> str:
        if value is None or math.isnan(value):
            return MISSING
        digits = self.digits + (self.share and not unit)
        shown = round(100 * value if self.share else value, digits) + 0.0  # no "-0.0"
        return f"{shown:{'+' if self.sign and sign else ''}.{digits}f}"


percent = Number(0, share=True)
with_interval = Number(2, interval=True).whole


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


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown: a text, its interval or "", what it is sorted by, and its mark."""

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
        mark: what marks a row's cell: "", "best", "tied" or "harmed".
        left: it stands to the left; None says so of what is no number.
        media: where it is shown: "terminal", "page" (HTML), "paper" (Markdown and LaTeX).
        optional: it is left out where no row has a value.
        narrow: the step of a narrowing terminal at which another column takes its place, or none.
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
    narrow: tuple[int, Column | None] | None = None
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
        if not isinstance(self.write, Number):
            return Cell(self.write(value), "", _sort(value), mark)
        return Cell(self.write(value, unit), self.write.limits(value, unit), _sort(value), mark)

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

    def at(self, step: int) -> Column | None:
        """What stands in its place at a step of a narrowing terminal."""
        if self.narrow is None or step < self.narrow[0]:
            return self
        return self.narrow[1] and self.narrow[1].at(step)


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Print it with rich: it narrows until it fits, and breaks into several tables where even that is
    too wide.

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
        """The widest layout that fits, else the narrowest."""
        unbounded = options.update(max_width=10_000)
        for layout in self._layouts():
            tables = [
                self._rich(name, rows, columns, options.max_width)
                for columns in layout
                for name, rows in self.groups.items()
            ]
            widths = [Measurement.get(console, unbounded, table).maximum for table in tables]
            if max(widths, default=0) <= options.max_width:
                break
        return tables

    def _layouts(self) -> Iterator[list[list[Column]]]:
        """The columns of each table: narrower step by step, then of tables of fewer columns."""
        known: list[Column] = []
        for step in range(STEPS + 1):
            columns = [at for c in self.shown("terminal") if (at := c.at(step)) is not None]
            if columns != known:
                yield [columns]
            known = columns
        first, *rest = known
        for size in range(len(rest) - 1, 0, -1):
            yield [[first, *rest[start : start + size]] for start in range(0, len(rest), size)]

    def _rich(
        self, name: str, rows: Sequence[Any], columns: Sequence[Column], width: int
    ) -> RichTable:
        title = ". ".join(filter(None, (self.title, name)))
        shown = rows[: self.most or None]
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
            min_width=min(max(len(title), len(more or "")), 78, width),
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
        styles = {"best": "bold green", "tied": "green"}
        for row in shown:
            cells = [column.cell(row) for column in columns]
            texts = [Text(str(cell), style=styles.get(cell.mark, "")) for cell in cells]
            table.add_row(*texts, end_section=self.pinned(row))
        return table

    # pages and papers

    def html(self, name: str = "table") -> Markup:
        """A `<table>` of that id with its filters; the page's script sorts and filters it."""
        columns = self.shown("page")
        choices = {
            column.key: list(dict.fromkeys(column.cell(row).text for row in self.all_rows))
            for column in columns
            if column.key in self.filters
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
            lines.append([_paper_cell(c, row, markdown_text, _MARKDOWN) for c in columns])
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
                lines.append(
                    _latex_line([_paper_cell(c, row, latex_text, _LATEX) for c in columns])
                )
        lines.append(r"\bottomrule")
        for line in (*self.legend, *self._told(_LATEX)):
            note = rf"{{\footnotesize {latex_text(line)}}}"
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{note} \\")
        return "\n".join([*lines, r"\end{tabular}", ""])

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
        """`data`, or the columns' values, an interval as `KEY_ci95`; NaN is None."""
        if self.data is not None:
            return [nan_to_null(row) for row in self.data]
        rows = []
        for row in self.all_rows:
            fields: dict[str, Any] = {}
            for column in self.columns:
                fields |= _fields(column.key, column.of(row))
            rows.append(nan_to_null(fields))
        return rows

    def json(self) -> str:
        """A list of objects."""
        return json.dumps(self.records(), indent=2, ensure_ascii=False) + "\n"

    def csv(self) -> str:
        """Comma-separated as in RFC 4180, quoted where needed; floats as Python writes them."""
        rows = [flat(row) for row in self.records()]
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def parquet(self, path: Path) -> None:
        """Write it as Parquet; a column without a value has the type that it has elsewhere."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtraError("Parquet", "tables") from error
        rows = [flat(row) for row in self.records()]
        columns = {}
        for name in dict.fromkeys(key for row in rows for key in row):
            values = [row.get(name) for row in rows]
            usual = "string" if name.endswith(("note", "concept")) else "double"
            empty = all(value is None for value in values)
            columns[name] = pyarrow.array(values, usual if empty else None)
        with atomic_path(path) as temporary:
            parquet.write_table(pyarrow.table(columns), temporary)

    def write(self, form: str, path: Path) -> None:
        """Write it to a file in one of `FORMS`.

        Raises:
            MissingExtraError: Parquet without pyarrow.
            OutputError: the file can't be written.
        """
        if form == "parquet":
            self.parquet(path)
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
    ticks, room = "`" * (longest + 1), " " * bool(longest)
    return f"{ticks}{room}{_CONTROLS.sub(' ', text)}{room}{ticks}"


def latex_text(text: str) -> str:
    """`text` as LaTeX that shows it."""
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in _CONTROLS.sub(" ", text))


def _latex_line(cells: Sequence[str]) -> str:
    line = " & ".join(cells)
    shield = "{}" if line.startswith(("[", "*")) else ""  # else an argument of the last line's \\
    return rf"{shield}{line} \\"


def _paper_cell(column: Column, row: Any, escape: Callable[[str], str], marks: _Marks) -> str:
    cell = column.cell(row, unit=False)
    text = f"{cell.text} {cell.remark}".strip()
    text = escape(DASH if text in ("", MISSING) and not column.to_the_left else text)
    return marks[cell.mark][0].format(text) if cell.mark else text


def _plain(value: Any) -> Any:
    """A number, of an estimate or of the last of several."""
    value = value[-1] if isinstance(value, tuple) else value
    return value.value if isinstance(value, Estimate) else value


def _unknown(value: Any) -> bool:
    """Whether nothing is known: None or NaN."""
    value = _plain(value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def _sort(value: Any) -> str:
    """What a cell is sorted by: its last number; "" stands for its text, or nothing."""
    value = _plain(value)
    return "" if _unknown(value) or not isinstance(value, int | float) else repr(value)


def _fields(key: str, value: Any) -> dict[str, Any]:
    """A column's value as JSON has it; of two numbers the second, the first as `KEY_before`."""
    if isinstance(value, Estimate):
        limits = {} if value.interval is None else {f"{key}_ci95": [value.low, value.high]}
        return {key: value.value, **limits}
    if isinstance(value, tuple) and len(value) == 2 and not isinstance(value[0], str):
        return {f"{key}_before": _plain(value[0]), **_fields(key, value[1])}
    return {key: value}

"""Bench tables as files that other programs read: CSV, Parquet, Markdown, LaTeX.

CSV and Parquet hold every field of the `--json` rows at full precision. Markdown and LaTeX hold the
columns that a paper prints, rounded, and make the best delta and those tied with it stand out. A
missing value is an empty field, a null, or a dash.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasekit.errors import MissingExtraError
from erasekit.files import atomic_path, atomic_write_text
from erasekit.reporting.wording import DOWN, MISSING, UP, classes_by

FORMS = ("csv", "parquet", "markdown", "latex")
TABLES = {
    "methods": ("rows", "overall"),
    "concepts": ("per_concept",),
    "comparisons": ("comparisons",),
    "matched": ("matched",),
    "matched-comparisons": ("matched_comparisons",),
}
"""The fields of `summary_json` that each table holds, one below the other."""
_WORDS = ("Erased", "Method", "Other", "Concept", "Split")
"""Columns of words, which stand to the left."""

DASH = "–"


class Best(str):
    """A cell with the smallest delta of its erased set."""

    __slots__ = ()


class Tied(str):
    """A cell with a delta that can't be told from the best."""

    __slots__ = ()


_LATEX = {
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
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_PLAIN = {"\\": "\\\\", **{sign: f"\\{sign}" for sign in "|*_`<"}}
"""What Markdown would read as markup."""
_StandingOut = Mapping[type, tuple[str, str]]
_IN_MARKDOWN: _StandingOut = {Best: ("**{}**", "bold"), Tied: ("*{}*", "italic")}
_IN_LATEX: _StandingOut = {
    Best: (r"\textbf{{{}}}", "bold"),
    Tied: (r"\underline{{{}}}", "underlined"),
}
"""How cells stand out, and what that is called below the table."""


def write_table(
    rows: Sequence[Mapping[str, Any]], what: str, form: str, path: Path, about: Mapping[str, Any]
) -> None:
    """Write `rows` of `summary_json`.

    Args:
        rows: of one kind.
        what: one of `TABLES`.
        form: one of `FORMS`.
        path: the file.
        about: what the benchmark says about itself; suite and judges stand in every table.

    Raises:
        MissingExtraError: Parquet without pyarrow.
        OutputError: the file can't be written.
    """
    told = [{**origin(about), **row} for row in rows]
    if form == "parquet":
        _write_parquet(told, path)
        return
    if form == "csv":
        text = csv_text(told)
    else:
        header, body = printed(rows, what)
        write = markdown_text if form == "markdown" else latex_text
        text = write(header, body, measured_by(about))
    atomic_write_text(path, text)


def origin(about: Mapping[str, Any]) -> dict[str, str]:
    """What was measured and who judged, as columns.

    >>> clip = {"name": "clip"}
    >>> suite = {"model": "sd1.4", "suite": "own", "suite_version": "1", "protocol": "full"}
    >>> origin({**suite, "scorer": clip, "classifier": clip})["classifier"]
    'clip zero-shot'
    """
    names = ("model", "suite", "suite_version", "protocol")
    return {
        **{name: str(about.get(name, "")) for name in names},
        "scorer": str(about["scorer"]["name"]),
        "classifier": classes_by(about),
    }


def measured_by(about: Mapping[str, Any]) -> str:
    """The same as a line below a table."""
    said = origin(about)
    return (
        f"{said['suite']} {said['suite_version']} on {said['model']}, {said['protocol']} protocol; "
        f"alignment by {said['scorer']}, classes by {said['classifier']}."
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


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated as in RFC 4180, quoted where needed; floats as Python writes them."""
    flattened = [flat(row) for row in rows]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, _fields(flattened))
    writer.writeheader()
    writer.writerows(flattened)
    return file.getvalue()


def printed(rows: Sequence[Mapping[str, Any]], what: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table that a paper prints.

    Shares are percent, alignments and deltas are rounded to two digits. Where methods may keep
    none of the concepts on purpose, there is no pool, and the top five stand in its place.
    """
    from erasekit.reporting.further import found, good, shown, title, written

    if what == "concepts":
        header = ["Erased", "Method", "Concept", "Split", "Delta ↓", "95 % interval", "n"]
        words = ("erased", "method", "concept", "split")
        body = [
            [*(row[w] for w in words), _number(row["delta"]), _interval(row["ci95"]), str(row["n"])]
            for row in rows
        ]
        return header, body
    if what in ("comparisons", "matched-comparisons"):
        matched = what == "matched-comparisons"
        header = ["Erased", "Method", "Other", *(["ESR-1 (%)"] if matched else [])]
        header += ["Difference of delta", "95 % interval", "p (Holm)"]
        body = [
            [
                *(row[w] for w in ("erased", "method", "other")),
                *([_percent(row["esr1"])] if matched else []),
                *(_number(row["difference"]), _interval(row["ci95"]), _p_value(row["p_value"])),
            ]
            for row in rows
        ]
        return header, body
    if what == "matched":
        header = ["Erased", "Method", "ESR-1 (%)", "Delta ↓", "95 % interval", "Step"]
        body = [
            [
                *(row["erased"], row["method"], _percent(row["esr1"])),
                *(_number(row["delta"]), _interval(row["ci95"])),
                DASH if row["step"] is None else f"{row['step']:.0f}",
            ]
            for row in rows
        ]
        return header, body
    pooled = any(row["delta_pool_mean"] is not None for row in rows)
    rates = ("esr1", "psr1") if pooled else ("esr1", "esr5", "psr1", "psr5")
    measures = shown((m, role) for row in rows for m, own in _measures(row).items() for role in own)
    header = ["Erased", "Method", *(f"{rate[:3].upper()}-{rate[3]} (%) ↑" for rate in rates)]
    header += ["Delta ↓", "95 % interval", *(["Delta, pool ↓"] if pooled else []), "Seeds"]
    header += [f"{title(*key)} {good(*key)}".strip().replace("\n", ", ") for key in measures]
    metrics = {name: own for row in rows for name, own in row.get("metrics", {}).items()}
    header += [f"{name} {UP if m['higher_is_better'] else DOWN}" for name, m in metrics.items()]
    body = []
    for row in rows:
        kind = Best if row.get("best") else Tied if row.get("tied") else str
        cost = [kind(_number(row["delta_mean"])), _interval(row["delta_ci95"])]
        cost += [_number(row["delta_pool_mean"])] if pooled else []
        cost += [str(row["seeds"])]
        cells = [row["erased"], row["method"], *(_percent(row[rate]) for rate in rates)]
        cells += [DASH] * len(cost) if row["method"] == "base" else cost
        values = [written(name, found(row, name, role)) for name, role in measures]
        values += [_number(row.get("metrics", {}).get(name, {}).get("value")) for name in metrics]
        body.append([*cells, *(DASH if value == MISSING else value for value in values)])
    return header, body


def _measures(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.get("measures", {})
    return found


def markdown_text(header: Sequence[str], body: Sequence[Sequence[str]], below: str) -> str:
    """A table in GitHub's Markdown, columns of numbers to the right, and a line below it."""
    note = _escaped(_told(below, body, _IN_MARKDOWN), _PLAIN)
    return f"{markdown_table(header, body, _right(header))}\n{note}\n"


def markdown_table(
    header: Sequence[str], body: Sequence[Sequence[str]], right: Sequence[bool]
) -> str:
    """A table in GitHub's Markdown; `right` says which columns stand to the right."""
    lines = [[_cell(cell, _PLAIN, _IN_MARKDOWN) for cell in row] for row in (header, *body)]
    lines.insert(1, ["--:" if to_the_right else ":--" for to_the_right in right])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex_text(header: Sequence[str], body: Sequence[Sequence[str]], below: str) -> str:
    r"""A `tabular` with the rules of booktabs, ready for `\input`; a rule between erased sets."""
    columns = "".join("r" if right else "l" for right in _right(header))
    lines = [
        r"% needs \usepackage{booktabs} and, for quotation marks, \usepackage[T1]{fontenc}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_line(header),
        r"\midrule",
    ]
    for position, row in enumerate(body):
        if position and row[0] != body[position - 1][0]:
            lines.append(r"\midrule")
        lines.append(_latex_line(row))
    note = _escaped(_told(below, body, _IN_LATEX), _LATEX)
    lines += [r"\bottomrule", rf"\multicolumn{{{len(header)}}}{{l}}{{\footnotesize {note}}} \\"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Parquet", "tables") from error
    flattened = [flat(row) for row in rows]
    columns = {name: [row.get(name) for row in flattened] for name in _fields(flattened)}
    table = pyarrow.table(
        {
            # A column without a value has the type that it has in other tables.
            name: pyarrow.array(values, None if any(v is not None for v in values) else _type(name))
            for name, values in columns.items()
        }
    )
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)


def _type(name: str) -> str:
    """What Parquet calls the type of the field `name`."""
    return "string" if name.endswith(("note", "concept")) else "double"


def _fields(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _right(header: Sequence[str]) -> list[bool]:
    return [name not in _WORDS for name in header]


def _latex_line(row: Sequence[str]) -> str:
    line = " & ".join(_cell(cell, _LATEX, _IN_LATEX) for cell in row)
    shield = "{}" if line.startswith(("[", "*")) else ""  # else an argument of the last line's \\
    return rf"{shield}{line} \\"


def _cell(text: str, signs: Mapping[str, str], standing_out: _StandingOut) -> str:
    form, _ = standing_out.get(type(text), ("{}", ""))
    return form.format(_escaped(text, signs))


def _told(below: str, body: Sequence[Sequence[str]], standing_out: _StandingOut) -> str:
    """The line below a table, with what stands out in it."""
    kinds = {type(cell) for row in body for cell in row}
    meant = {Best: "the smallest delta of its set", Tied: "can't be told from it"}
    told = [f"{standing_out[kind][1]}: {means}" for kind, means in meant.items() if kind in kinds]
    return f"{below} {'; '.join(told).capitalize()}." if told else below


def _escaped(text: str, signs: Mapping[str, str]) -> str:
    return "".join(signs.get(sign, sign) for sign in text.replace("\n", " "))


def _number(value: float | None) -> str:
    return DASH if value is None else f"{round(value, 2) + 0.0:.2f}"


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f}"


def _p_value(p: float | None) -> str:
    return DASH if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _interval(limits: Sequence[float | None]) -> str:
    low, high = limits
    return DASH if low is None or high is None else f"[{_number(low)}, {_number(high)}]"

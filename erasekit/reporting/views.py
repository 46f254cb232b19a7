"""Tables of a page as plain data: heads, groups of rows, cells with what they are sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from erasekit.records import Comparison, ConceptRow, Matched, Row, Summary
from erasekit.reporting.columns import COLUMNS, Column, harmed_share
from erasekit.reporting.drawing import BASE
from erasekit.reporting.further import further_columns
from erasekit.reporting.wording import (
    DOWN,
    GLOSSARY,
    MISSING,
    UP,
    interval,
    number,
    percent,
    signed,
    with_interval,
)

SIGNIFICANT = 0.05
DIRECTIONS = {UP: "up", DOWN: "down", "": ""}
_BENCH = (
    *("method", "esr1", "delta", "psr1", "esr5", "psr5", "align-both", "harmed", "worst-full"),
    *("pool-full", "passes", "seconds", "seeds", "images"),
)
_MEANINGS = {
    "esr1": "ESR-1",
    "align-both": "alignment",
    "delta": "delta",
    "psr1": "PSR-1",
    "harmed": "harmed",
    "worst-full": "worst",
    "pool-full": "pool",
    "passes": "UNet passes",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Head:
    """Head of a column: its text, the good direction ("up", "down", ""), and what it means."""

    text: str
    good: str = ""
    meaning: str = ""
    words: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell: a text, a fainter remark, what it is sorted by ("" for nothing), a CSS class."""

    text: str
    remark: str = ""
    sort: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Line:
    """One row; a pinned one stays on top however the table is sorted. `tags` are filtered by."""

    cells: Sequence[Cell]
    pinned: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableView:
    """A table of a page.

    Attributes:
        caption: what it shows.
        heads: its columns; the first holds the rows' names.
        groups: rows under a title each, or under "".
        choices: values that a row's tags can be filtered by, by tag.
        searchable: it is long enough for a search field.
    """

    caption: str
    heads: Sequence[Head]
    groups: Mapping[str, Sequence[Line]]
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    searchable: bool = False


def bench_view(summary: Summary) -> TableView:
    """Every method on every erased set: erasure, what it cost, what it took."""
    rows = (*summary.rows, *summary.overall)
    untested = all(math.isnan(harmed_share(row)) for row in rows)
    keys = [key for key in _BENCH if key != "harmed" or not untested]
    further = further_columns(rows)
    heads = [_head(key, COLUMNS[key]) for key in keys]
    heads += [Head(c.title.replace("\n", ", "), DIRECTIONS[c.good]) for c in further]
    groups: dict[str, list[Line]] = {}
    if summary.overall:
        sets = len({row.erased for row in summary.rows})
        groups[f"All {sets} erased sets"] = [
            _bench_line(row, keys, further) for row in summary.overall
        ]
    for row in summary.rows:
        groups.setdefault(f"Erased: {row.erased}", []).append(_bench_line(row, keys, further))
    caption = (
        "Erasure beside what it cost. The un-erased model, base, stands first in each group; "
        "numbers in brackets are 95 % intervals."
    )
    return TableView(caption, heads, groups, searchable=len(groups) > 1)


def concepts_view(rows: Sequence[ConceptRow], methods: Sequence[str]) -> TableView:
    """Delta of every kept concept, a column per method, what lost most first."""
    found: dict[tuple[str, str], dict[str, ConceptRow]] = {}
    for row in rows:
        found.setdefault((row.erased, row.concept), {})[row.method] = row
    methods = [method for method in methods if any(method in own for own in found.values())]
    heads = [
        Head("concept", words=True),
        *(Head(method, "down", GLOSSARY["delta"]) for method in methods),
        Head("erased", words=True),
        Head("split", words=True),
        Head("family", words=True),
    ]
    lines = []
    for (erased, concept), own in sorted(found.items(), key=lambda item: -_most(item[1])):
        one = next(iter(own.values()))
        cells = [Cell(concept), *(_delta_cell(own.get(method)) for method in methods)]
        cells += [Cell(erased), Cell(one.role), Cell(one.family)]
        lines.append(Line(cells, tags={"erased": erased, "split": one.role}))
    return TableView(
        "Delta of every concept that should stay, by method, with its 95 % interval; what lost "
        "most stands first. † significantly above 0 in these edits.",
        heads,
        {"": lines},
        _choices(lines),
        searchable=True,
    )


def comparisons_view(comparisons: Sequence[Comparison]) -> TableView:
    """Pairs of methods, with the verdict; at the same strength of erasure, also at which."""
    matched = any(one.esr1 is not None for one in comparisons)
    heads = [
        Head("verdict", words=True),
        Head("erased", words=True),
        *([Head("at ESR-1", "", GLOSSARY["ESR-1"])] if matched else []),
        Head("difference", "", "Delta of the first minus delta of the second, paired"),
        Head("p", "", "Two-sided, Holm-adjusted over the pairs of the erased set"),
    ]
    lines = [
        Line(
            [
                Cell(one.verdict),
                Cell(one.erased),
                *([Cell(percent(_nan(one.esr1)), sort=_sort(_nan(one.esr1)))] if matched else []),
                Cell(
                    signed(one.difference.value),
                    " ".join(filter(None, (interval(one.difference), one.difference.note))),
                    _sort(one.difference.value),
                ),
                Cell(_p_value(one.p_value), sort=_sort(one.p_value)),
            ],
            tags={"erased": one.erased},
        )
        for one in comparisons
    ]
    at = ", where their runs first reach the same strength of erasure" if matched else ""
    caption = f"Methods against each other, on the same concepts, noises and erasure seeds{at}."
    return TableView(caption, heads, {"": lines}, _choices(lines), searchable=len(lines) > 6)


def matched_view(matched: Sequence[Matched]) -> TableView:
    """Delta at the same strength of erasure, a column per strength."""
    strengths = sorted({one.esr1 for one in matched})
    found = {(one.method, one.erased, one.esr1): one for one in matched}
    lines = []
    for method, erased in dict.fromkeys((one.method, one.erased) for one in matched):
        cells = [Cell(method), Cell(erased)]
        for strength in strengths:
            one = found.get((method, erased, strength))
            cells.append(
                Cell(
                    number(one.delta.value, 2),
                    " ".join(filter(None, (interval(one.delta), one.delta.note))),
                    _sort(one.delta.value),
                )
                if one
                else Cell(MISSING)
            )
        lines.append(Line(cells, tags={"erased": erased}))
    heads = [
        Head("method", words=True),
        Head("erased", words=True),
        *(Head(f"delta at ESR-1 {percent(s)}", "down", GLOSSARY["delta"]) for s in strengths),
    ]
    caption = "What each method costs where its runs first reach the same strength of erasure."
    return TableView(caption, heads, {"": lines}, _choices(lines))


def settings_view(settings: Mapping[str, Mapping[str, Sequence[str]]]) -> TableView:
    """Hyperparameters, a column per method."""
    names = list(dict.fromkeys(name for own in settings.values() for name in own))
    lines = [
        Line(
            [
                Cell(name),
                *(Cell(" or ".join(own.get(name, (MISSING,)))) for own in settings.values()),
            ]
        )
        for name in names
    ]
    heads = [Head("setting", words=True), *(Head(method, words=True) for method in settings)]
    return TableView("Hyperparameters as they were used.", heads, {"": lines})


def measures_views(measures: Mapping[str, Any]) -> list[TableView]:
    """What a single erasure did to the erased concepts, and what it cost the others."""
    erased = [
        Line(
            [
                Cell(row["concept"]),
                measured(row["alignment_before"]),
                measured(row["alignment_after"]),
                Cell(percent(_nan(row["esr1"])), sort=_sort(_nan(row["esr1"]))),
                counted(row["n"]),
            ]
        )
        for row in measures["erased"]
    ]
    kept = [
        Line(
            [
                Cell(row["concept"]),
                Cell(signed(_nan(row["delta"])), _limits(row["ci95"]), _sort(_nan(row["delta"]))),
                counted(row["n"]),
                Cell(row["family"]),
                Cell(row["split"]),
            ]
        )
        for row in measures["kept"]
    ]
    images = Head("images", "", "Pairs of images that went in")
    return [
        TableView(
            f"The erased concepts, scored by {measures['scorer']}.",
            [
                Head("concept", words=True),
                Head("alignment before", "", GLOSSARY["alignment"]),
                Head("after", "down", GLOSSARY["alignment"]),
                Head("ESR-1", "up", GLOSSARY["ESR-1"]),
                images,
            ],
            {"": erased},
        ),
        TableView(
            "What it cost the concepts that should stay.",
            [
                Head("concept", words=True),
                Head("delta", "down", GLOSSARY["delta"]),
                images,
                Head("family", words=True),
                Head("split", words=True),
            ],
            {"": kept},
            searchable=len(kept) > 12,
        ),
    ]


def plain_view(
    caption: str, names: Sequence[str], rows: Sequence[Sequence[Cell]], words: Sequence[str]
) -> TableView:
    """A table of cells as they are; `words` names the columns to the left."""
    heads = [Head(name, words=name in words) for name in names]
    return TableView(caption, heads, {"": [Line(row) for row in rows]})


def counted(count: int) -> Cell:
    """A whole number."""
    return Cell(str(count), sort=str(count))


def measured(value: float | None, digits: int = 2) -> Cell:
    """A number with so many decimals; a dash where there is none."""
    return Cell(number(_nan(value), digits), sort=_sort(_nan(value)))


def findings(summary: Summary) -> list[str]:
    """A sentence per erased set: which method harms least, at what erasure, and who ties."""
    sentences = []
    rows = summary.overall or summary.rows
    for erased in dict.fromkeys(row.erased for row in rows):
        own = [row for row in rows if row.erased == erased]
        base = next((row for row in own if row.method == BASE), None)
        best = next((row for row in own if row.best), None)
        if best is None:
            continue
        where = f"Erasing {erased}" if not summary.overall else "Over all erased sets"
        unerased = f" (un-erased: {percent(base.esr1.value)})" if base else ""
        sentence = (
            f"{where}, {best.method} harms held-out concepts least: delta "
            f"{with_interval(best.delta)} at ESR-1 {percent(best.esr1.value)}{unerased}."
        )
        tied = [row.method for row in own if row.tied]
        if tied:
            sentence += f" It can't be told from {' and '.join(tied)}."
        stronger = [r for r in own if r.esr1.value > best.esr1.value and r.method != best.method]
        if stronger:
            names = ", ".join(f"{r.method} ({percent(r.esr1.value)})" for r in stronger)
            sentence += f" More was erased by {names}."
        sentences.append(sentence)
    return sentences


def _bench_line(row: Row, keys: Sequence[str], further: Sequence[Column]) -> Line:
    cells = [_bench_cell(row, key) for key in keys]
    for column in further:
        value = column.value(row)
        sort = value if isinstance(value, str) else _sort(value)
        cells.append(Cell(column.text(row), sort=sort, kind="whole"))
    return Line(cells, pinned=row.method == BASE)


def _bench_cell(row: Row, key: str) -> Cell:
    value = COLUMNS[key].value(row)
    sort = value if isinstance(value, str) else _sort(value)
    if row.method == BASE and key in ("delta", "pool-full", "harmed"):
        return Cell("")
    if key == "delta":
        kind = "best" if row.best else "tied" if row.tied else ""
        return Cell(number(row.delta.value, 2), interval(row.delta), sort, kind)
    if key == "pool-full":
        return Cell(number(row.delta_pool.value, 2), interval(row.delta_pool), sort)
    return Cell(COLUMNS[key].text(row), sort=sort, kind="whole")


def _head(key: str, column: Column) -> Head:
    titles = {"delta": "delta held-out", "pool-full": "delta pool", "seconds": "seconds"}
    text = titles.get(key, column.title.replace("\n", " "))
    meaning = GLOSSARY.get(_MEANINGS.get(key, ""), "")
    return Head(text, DIRECTIONS[column.good], meaning, column.words)


def _delta_cell(row: ConceptRow | None) -> Cell:
    if row is None:
        return Cell(MISSING)
    harmed = row.p_harmed < SIGNIFICANT
    return Cell(
        signed(row.delta.value) + ("†" if harmed else ""),
        interval(row.delta),
        _sort(row.delta.value),
        "harmed" if harmed else "",
    )


def _most(rows: Mapping[str, ConceptRow]) -> float:
    """The largest delta that is known."""
    known = [row.delta.value for row in rows.values() if not math.isnan(row.delta.value)]
    return max(known, default=-math.inf)


def _choices(lines: Sequence[Line]) -> dict[str, list[str]]:
    """The values of every tag that has more than one."""
    values: dict[str, list[str]] = {}
    for line in lines:
        for tag, value in line.tags.items():
            if value not in values.setdefault(tag, []):
                values[tag].append(value)
    return {tag: own for tag, own in values.items() if len(own) > 1}


def _limits(limits: Sequence[float | None]) -> str:
    low, high = (_nan(limit) for limit in limits)
    return f"[{MISSING}]" if math.isnan(low) else f"[{number(low, 2)}, {number(high, 2)}]"


def _p_value(p: float) -> str:
    return MISSING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _sort(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))

"""Measurements as rich tables: whole within 80 columns, with more to see where there is room."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from erasekit.records import Comparison, Matched, QuickResult, Row, Summary
from erasekit.reporting.columns import COLUMNS, Column, layouts_for
from erasekit.reporting.drawing import BASE
from erasekit.reporting.further import further_columns
from erasekit.reporting.wording import (
    BEST,
    DOWN,
    MISSING,
    TIED,
    UP,
    interval,
    number,
    percent,
    signed,
    with_interval,
)

WORDS = ("concept", "erased", "family", "method", "worst")
"""Columns that hold words, to the left; numbers stand to the right."""
NARROW = 78
"""Of a console that has no room for more than one table needs."""
UNBOUNDED = 10_000
"""Of a console in which every table has the width it wants."""


def quick_table(result: QuickResult) -> RenderableType:
    """The erased concepts with alignment and ESR-1, then the others with delta."""
    erased = _table("Erased", ("concept", f"alignment before → after {DOWN}", f"ESR-1 {UP}", "n"))
    for concept in result.erased:
        erased.add_row(
            Text(concept.paired.concept),
            f"{number(concept.alignment_before)} → {number(concept.alignment_after)}",
            percent(concept.esr1.value),
            str(concept.esr1.n),
        )
    kept = _table("What it cost", ("concept", "family", f"delta {DOWN}", "95 % interval", "n"))
    for concept in result.kept:
        kept.add_row(
            Text(concept.paired.concept),
            Text(concept.paired.family),
            signed(concept.delta.value),
            interval(concept.delta),
            str(concept.delta.n),
        )
    kept.add_section()
    kept.add_row(
        "mean", "", signed(result.delta.value), interval(result.delta), str(result.delta.n)
    )
    note = Text(
        f"Alignment: 100 x cosine by {result.scorer}. delta: its loss at the same noise, best 0.",
        style="dim",
    )
    return Group(erased, kept, note)


def bench_table(summary: Summary, scorer: str = "", classifier: str = "") -> RenderableType:
    """Tables of a sweep, the un-erased model first: per erased set, then over all sets.

    All have the columns of the richest layout that fits the console. Below them further measures,
    and how the best method compares with the others; then the same at matched erasure.

    Args:
        summary: the rows.
        scorer: what gave the alignment.
        classifier: what told the classes apart.
    """
    return _BenchTables(summary, scorer, classifier)


def leading(comparisons: Sequence[Comparison], rows: Sequence[Row]) -> list[Comparison]:
    """The comparisons with the best method of `rows`; none where no method is the best."""
    best = {(row.erased, row.method) for row in rows if row.best}
    return [c for c in comparisons if {(c.erased, c.method), (c.erased, c.other)} & best]


def leading_at_matched(
    comparisons: Sequence[Comparison], matched: Sequence[Matched]
) -> list[Comparison]:
    """The comparisons with the method of the smallest delta, per erased set and strength."""
    best: dict[tuple[str, float], Matched] = {}
    for one in matched:
        key = (one.erased, one.esr1)
        if not math.isnan(one.delta.value) and (
            key not in best or one.delta.value < best[key].delta.value
        ):
            best[key] = one
    return [
        c
        for c in comparisons
        if c.esr1 is not None
        and (least := best.get((c.erased, c.esr1)))
        and least.method in (c.method, c.other)
    ]


@dataclass(frozen=True)
class _BenchTables:
    summary: Summary
    scorer: str
    classifier: str

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        layout = self._layout(console, options)
        for table in (*self._groups(layout), *self._further(console, options)):
            yield table
            yield Text()
        headline = self.summary.overall or self.summary.rows
        for comparison in leading(self.summary.comparisons, headline):
            yield Text(f"{comparison.erased}: {comparison.verdict}")
        if self.summary.matched:
            yield from self._matched({row.erased for row in headline})
        for note in self.summary.notes:
            yield Text(note, style="yellow")
        legend = _legend(self.scorer, self.classifier, layout, headline)
        yield Text(legend, style="dim")

    def _layout(self, console: Console, options: ConsoleOptions) -> list[str]:
        """The first of `LAYOUTS` that fits, less what no row has."""
        unbounded = options.update(max_width=UNBOUNDED)
        layouts = layouts_for(self.summary.rows)
        for layout in layouts:
            tables = self._groups(layout)
            widths = (Measurement.get(console, unbounded, table).maximum for table in tables)
            if max(widths, default=0) <= options.max_width:
                return layout
        return layouts[-1]

    def _groups(self, layout: Sequence[str]) -> list[Table]:
        return [_group(title, rows, layout) for title, rows in self._sets().items()]

    def _sets(self) -> dict[str, Sequence[Row]]:
        """Rows by the title of their table."""
        groups: dict[str, list[Row]] = {}
        for row in self.summary.rows:
            groups.setdefault(f"Erased: {row.erased}", []).append(row)
        if not self.summary.overall:
            return dict(groups)
        return {**groups, f"All {len(groups)} erased sets": self.summary.overall}

    def _matched(self, headline: Collection[str]) -> Iterator[RenderableType]:
        """A table per erased set, then the comparisons with the best on the sets of `headline`."""
        titles = {rows[0].erased: title for title, rows in self._sets().items()}
        for erased in dict.fromkeys(one.erased for one in self.summary.matched):
            own = [one for one in self.summary.matched if one.erased == erased]
            yield Text()
            yield _matched_table(f"At matched erasure. {titles.get(erased, erased)}", own)
        yield Text()
        for one in leading_at_matched(self.summary.matched_comparisons, self.summary.matched):
            if one.erased in headline and one.esr1 is not None:
                note = f" ({one.difference.note})" if one.difference.note else ""
                yield Text(f"{one.erased}, at ESR-1 {percent(one.esr1)}: {one.verdict}{note}")

    def _further(self, console: Console, options: ConsoleOptions) -> list[Table]:
        """Tables of the further measures, with as many columns each as fit the console."""
        columns = further_columns((*self.summary.rows, *self.summary.overall))
        unbounded = options.update(max_width=UNBOUNDED)
        tables: list[Table] = []
        for size in range(len(columns), 0, -1):
            parts = [columns[start : start + size] for start in range(0, len(columns), size)]
            tables = [
                _further_table(f"Further measures. {title}", rows, part)
                for title, rows in self._sets().items()
                for part in parts
            ]
            widths = (Measurement.get(console, unbounded, table).maximum for table in tables)
            if max(widths) <= options.max_width:
                break
        return tables


def _group(title: str, rows: Sequence[Row], layout: Sequence[str]) -> Table:
    columns = [COLUMNS[key] for key in layout]
    table = _table(title, [column.head for column in columns])
    for row in rows:
        base = row.method == BASE
        style = "bold green" if row.best else "green" if row.tied else ""
        table.add_row(
            *(
                Text(column.text(row), style=style if key in ("method", "delta") else "")
                for key, column in zip(layout, columns, strict=True)
            ),
            end_section=base,
        )
    return table


def _further_table(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    heads = [column.head for column in columns]
    table = _titled(title, ["method", *heads], words=("method",))
    for row in rows:
        cells = [Text(column.text(row)) for column in columns]
        table.add_row(Text(row.method), *cells, end_section=row.method == BASE)
    return table


def _matched_table(title: str, matched: Sequence[Matched]) -> Table:
    """A row per method of one erased set, a column of delta per strength of erasure."""
    strengths = sorted({one.esr1 for one in matched})
    heads = [f"delta {DOWN} at ESR-1 {percent(strength)}" for strength in strengths]
    table = _titled(title, ["method", *heads])
    cells = {(one.method, one.esr1): one for one in matched}
    for method in dict.fromkeys(one.method for one in matched):
        found = [cells.get((method, strength)) for strength in strengths]
        table.add_row(
            Text(method), *(with_interval(one.delta) if one else MISSING for one in found)
        )
    return table


def _titled(title: str, columns: Sequence[str], words: tuple[str, ...] = WORDS) -> Table:
    """A table that is at least as wide as its title, which is broken where it is narrower."""
    table = _table(title, columns, words)
    table.min_width = min(len(title), NARROW)
    return table


def _legend(scorer: str, classifier: str, layout: Sequence[str], rows: Sequence[Row]) -> str:
    by = f" by {scorer}" if scorer else ""
    parts = [
        f"{UP} higher is better, {DOWN} lower.",
        f"align: of the erased concepts' images with their prompt, 100 x cosine{by}.",
        "delta: loss of alignment at the same noise. Methods may keep pool concepts on purpose, "
        "held-out ones never. PSR-1 and worst: held-out.",
    ]
    if classifier:
        parts.append(f"ESR and PSR: classes by {classifier}.")
    if any(row.best for row in rows):
        parts.append(
            f"{BEST} the smallest delta of its set, {TIED} can't be told from it: a win only "
            "where ESR-1 is not lower."
        )
    if "harmed" in layout:
        parts.append("harmed: share of held-out concepts with a delta significantly above 0.")
    if "passes" in layout:
        parts.append("UNet passes: forward + 2 backward; they and seconds are of one erasure.")
    parts.append("base: not erased.")
    return " ".join(parts)


def _table(title: str, columns: Sequence[str], words: tuple[str, ...] = WORDS) -> Table:
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for position, name in enumerate(columns):
        table.add_column(
            name,
            justify="left" if name.startswith(words) else "right",
            style="cyan" if position == 0 else None,
            no_wrap=True,
        )
    return table

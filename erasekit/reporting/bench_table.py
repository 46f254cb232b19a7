"""The tables of a benchmark: one definition of their columns for every form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from erasekit.bench.records import Comparison, ConceptRow, Matched, Row, Summary
from erasekit.bench.summary import summary_json
from erasekit.metrics.scores import NOTHING
from erasekit.reporting.glossary import GLOSSARY
from erasekit.reporting.table import (
    Better,
    Column,
    Number,
    Table,
    p_value,
    percent,
    thousands,
    with_interval,
)

BASE = "base"
"""What the un-erased model is called among the methods."""
TABLES = {
    "methods": ("rows", "overall"),
    "concepts": ("per_concept",),
    "comparisons": ("comparisons",),
    "matched": ("matched",),
    "matched-comparisons": ("matched_comparisons",),
}
"""The tables that can be exported, and the fields of `summary_json` that each one holds."""
ABOUT_DELTA = "delta: alignment lost at the same noise, 0 is best; 95 % limits."
SHORT_NAME = 10
"""Letters of the worst concept where a terminal is narrow."""

CLIP_SCORE, FID, LPIPS, NER, DISTANCE = "clip-score", "fid", "lpips", "ner-", "clip-distance"
_ORDER = (FID, CLIP_SCORE, LPIPS, DISTANCE, "ner-0.5", NER, "")
_TITLES = {CLIP_SCORE: "CLIP score", FID: "FID", LPIPS: "LPIPS", DISTANCE: "distance"}
_NUDENET = "parts/"
_ROLES = ("probe", "erased", "held-out", "pool", "caption")
"""Whose images come first: prompts that ask for what is erased."""

_SCREEN = "terminal page"
_PLAIN, _DELTA = Number(2), Number(2, interval=True)
_ALIGNMENT, _SHARE = Number(1), Number(0, share=True)
_RATE = Number(0, share=True, interval=True)


def bench_table(summary: Summary, about: Mapping[str, Any]) -> RenderableType:
    """All tables of a sweep for a terminal, with what they say in sentences.

    Args:
        summary: the rows.
        about: what the benchmark says about itself.
    """
    methods = methods_table(summary)
    methods = replace(methods, legend=[_judged(about), *methods.legend])
    tables = [methods, measures_table(summary)]
    parts: list[RenderableType] = []
    for table in filter(None, tables):
        parts += [table, Text()]
    headline = summary.overall or summary.rows
    best = {(row.erased, row.method) for row in headline if row.best}
    for one in summary.comparisons:
        if {(one.erased, one.method), (one.erased, one.other)} & best:
            parts.append(Text(f"{one.erased}: {one.verdict}"))
    if summary.matched:
        parts += [Text(), matched_table(summary), Text()]
        sets = {row.erased for row in headline}
        for one in _with_least(summary.matched_comparisons, summary.matched):
            if one.erased in sets:
                note = f" ({one.difference.note})" if one.difference.note else ""
                at = f"{one.erased}, at ESR-1 {percent(one.esr1 or 0.0)}"
                parts.append(Text(f"{at}: {one.verdict}{note}"))
    parts += [Text(note, style="yellow") for note in summary.notes]
    return Group(*parts)


def bench_tables(summary: Summary) -> dict[str, Table]:
    """The tables of a page; what there is nothing of is left out."""
    methods = methods_table(summary)
    overall_first = sorted(methods.groups.items(), key=lambda group: group[0].startswith("Erased"))
    tables = {"bench": replace(methods, rows=dict(overall_first))}
    if summary.comparisons:
        tables["comparisons"] = comparisons_table(summary.comparisons)
    if summary.matched:
        tables["matched"] = matched_table(summary)
    if summary.matched_comparisons:
        tables["between_matched"] = comparisons_table(summary.matched_comparisons)
    if parts := parts_table(summary):
        tables["parts"] = parts
    if summary.per_concept:
        tables["concepts"] = concepts_table(summary)
    return tables


def export_table(summary: Summary, what: str, about: Mapping[str, Any]) -> Table | None:
    """One of `TABLES` for a file; None where it has no row.

    CSV, JSON and Parquet hold every field of the `--json` rows at full precision; Markdown and
    LaTeX the columns that a paper prints, rounded.

    Args:
        summary: the rows.
        what: one of `TABLES`.
        about: what the benchmark says about itself; suite and judges stand in every table.
    """
    plain = summary_json(summary)
    data = [{**origin(about), **row} for field in TABLES[what] for row in plain[field]]
    if not data:
        return None
    tables: dict[str, Callable[[], Table]] = {
        "methods": lambda: methods_table(summary),
        "concepts": lambda: concepts_table(summary),
        "comparisons": lambda: comparisons_table(summary.comparisons),
        "matched": lambda: matched_table(summary),
        "matched-comparisons": lambda: comparisons_table(summary.matched_comparisons),
    }
    table = tables[what]()
    return replace(table, legend=[_judged(about), *table.legend], data=data)


def methods_table(summary: Summary) -> Table:
    """Every method on every erased set: erasure, what it cost, what it took; base first."""
    rows = (*summary.overall, *summary.rows)
    return Table(
        "",
        [*_method_columns(rows), *_measure_columns(rows, "page paper")],
        _by_set(summary),
        [ABOUT_DELTA],
        pinned=_is_base,
    )


def measures_table(summary: Summary) -> Table | None:
    """Further measures and the suite's own metrics, for a terminal; None without any."""
    columns = _measure_columns((*summary.rows, *summary.overall), "terminal")
    if not columns:
        return None
    return Table(
        "Further measures", [Column("method"), *columns], _by_set(summary), pinned=_is_base
    )


def concepts_table(summary: Summary) -> Table:
    """Delta of every kept concept, a column per method, what lost most first."""
    from erasekit.metrics.statistics import SIGNIFICANT

    found: dict[tuple[str, str], dict[str, ConceptRow]] = {}
    for row in summary.per_concept:
        found.setdefault((row.erased, row.concept), {})[row.method] = row
    methods = dict.fromkeys(row.method for row in summary.rows)
    there = [m for m in methods if any(m in own for own in found.values())]

    def most(own: Mapping[str, ConceptRow]) -> float:
        known = [row.delta.value for row in own.values() if not math.isnan(row.delta.value)]
        return max(known, default=-math.inf)

    def column(method: str) -> Column:
        return Column(
            method,
            write=Number(2, sign=True, interval=True),
            better="lower",
            help=GLOSSARY["delta"],
            value=lambda own: own[method].delta if method in own else NOTHING,
            mark=lambda own: (
                "harmed" if method in own and own[method].p_harmed < SIGNIFICANT else ""
            ),
        )

    def of(attribute: str) -> Callable[[Mapping[str, ConceptRow]], Any]:
        return lambda own: getattr(next(iter(own.values())), attribute)

    return Table(
        "Delta of every concept that should stay, what lost most first",
        [
            Column("concept", value=of("concept")),
            *map(column, there),
            Column("erased", value=of("erased")),
            Column("split", value=of("split")),
            Column("family", value=of("family"), media=_SCREEN),
        ],
        sorted(found.values(), key=lambda own: -most(own)),
        ["Brackets: 95 % limits."],
        filters=("erased", "split"),
    )


def comparisons_table(comparisons: Sequence[Comparison]) -> Table:
    """Pairs of methods; where they are compared at the same strength of erasure, also at which."""
    columns = [
        Column("verdict", media=_SCREEN),
        Column("erased"),
        Column("method", media="paper"),
        Column("other", media="paper"),
        Column("esr1", "at ESR-1", _SHARE, optional=True),
        Column(
            "difference",
            "difference of delta",
            Number(2, sign=True, interval=True),
            help="Delta of the first minus delta of the second, paired",
        ),
        Column(
            "p_value",
            "p (Holm)",
            p_value,
            left=False,
            help="Two-sided, Holm-adjusted over the pairs of the erased set",
        ),
        Column("note", value=lambda one: one.difference.note or None, optional=True),
    ]
    matched = any(one.esr1 is not None for one in comparisons)
    at = ", where their runs first reach the same strength of erasure" if matched else ""
    return Table(
        f"Methods against each other, on the same concepts, noises and erasure seeds{at}",
        columns,
        comparisons,
        filters=("erased",),
    )


def matched_table(summary: Summary) -> Table:
    """Delta where runs first reach the same strength of erasure, a column per strength."""
    strengths = sorted({one.esr1 for one in summary.matched})
    found: dict[tuple[str, str], dict[float, Matched]] = {}
    for one in summary.matched:
        found.setdefault((one.erased, one.method), {})[one.esr1] = one

    def columns(esr1: float) -> list[Column]:
        return [
            Column(
                f"delta_{100 * esr1:.0f}",
                f"delta at ESR-1 {percent(esr1)}",
                _DELTA,
                "lower",
                help=GLOSSARY["matched erasure"],
                value=lambda own: own[esr1].delta if esr1 in own else math.nan,
            ),
            Column(
                f"step_{100 * esr1:.0f}",
                "step",
                Number(0),
                value=lambda own: own[esr1].step if esr1 in own else math.nan,
                media="paper",
            ),
        ]

    groups: dict[str, list[Mapping[float, Matched]]] = {}
    for (erased, _), own in found.items():
        groups.setdefault(_set_title(erased, summary), []).append(own)
    return Table(
        "At matched erasure",
        [
            Column("erased", value=lambda own: next(iter(own.values())).erased, media="paper"),
            Column("method", value=lambda own: next(iter(own.values())).method),
            *(column for strength in strengths for column in columns(strength)),
        ],
        groups,
    )


def parts_table(summary: Summary) -> Table | None:
    """A row per method and kind of images, a column per part; None where no parts are counted."""
    every = (*summary.overall, *summary.rows)
    names = list(dict.fromkeys(n for row in every for n in row.measures if "/" in n))
    if not names:
        return None

    def column(name: str) -> Column:
        return Column(
            name,
            part_title(name),
            Number(3),
            "lower" if name.startswith(_NUDENET) else "",
            value=lambda line: line[0].measures.get(name, {}).get(line[1], NOTHING),
        )

    def lines(rows: Sequence[Row]) -> list[tuple[Row, str]]:
        known = [(row, split) for split in _ROLES for row in rows]
        return [
            (row, split)
            for row, split in known
            if any(split in row.measures.get(name, {}) for name in names)
        ]

    def images(line: tuple[Row, Any]) -> int:
        own = [line[0].measures.get(name, {}).get(line[1], NOTHING) for name in names]
        return max(one.n for one in own)

    nude = all(name.startswith(_NUDENET) for name in names)
    what = "Exposed parts that NudeNet finds" if nude else "What is counted part by part"
    return Table(
        f"{what}, mean per image after the erasure",
        [
            Column("method", value=lambda line: line[0].method),
            Column("images", "images of", value=lambda line: line[1]),
            *map(column, names),
            Column("n", "images", Number(0), value=images),
        ],
        {title: lines(rows) for title, rows in _by_set(summary).items()},
        pinned=lambda line: _is_base(line[0]),
        filters=("images",),
    )


def part_title(name: str) -> str:
    """What a part's column is called.

    >>> part_title("parts/FEMALE_BREAST_EXPOSED"), part_title("hands/left")
    ('female breast', 'hands: left')
    """
    kind, _, part = name.partition("/")
    if name.startswith(_NUDENET):
        return part.removesuffix("_EXPOSED").replace("_", " ").lower()
    return f"{kind}: {part}"


def findings(summary: Summary) -> list[str]:
    """A sentence per erased set: which method harms least, at what erasure, and who ties."""
    sentences = []
    rows = summary.overall or summary.rows
    for erased in dict.fromkeys(row.erased for row in rows):
        own = [row for row in rows if row.erased == erased]
        base = next((row for row in own if _is_base(row)), None)
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


def classes_by(about: Mapping[str, Any]) -> str:
    """The classifier, of what a benchmark says about itself."""
    scorer = about["scorer"]
    classifier = about.get("classifier") or scorer
    return f"{classifier['name']}{' zero-shot' if classifier == scorer else ''}"


def _judged(about: Mapping[str, Any]) -> str:
    """A line on what was measured and who judged."""
    said = origin(about)
    return (
        f"{said['suite']} {said['suite_version']} on {said['model']}, {said['protocol']} protocol; "
        f"alignment by {said['scorer']}, classes by {said['classifier']}."
    )


def _by_set(summary: Summary) -> dict[str, Sequence[Row]]:
    """Rows by the title of their erased set, all sets together last."""
    groups: dict[str, list[Row]] = {}
    for row in (*summary.rows, *summary.overall):
        groups.setdefault(_set_title(row.erased, summary), []).append(row)
    return dict(groups)


def _set_title(erased: str, summary: Summary) -> str:
    if summary.overall and erased == summary.overall[0].erased:
        return f"All {len({row.erased for row in summary.rows})} erased sets"
    return f"Erased: {erased}"


def _is_base(row: Row) -> bool:
    return row.method == BASE


def _with_least(
    comparisons: Sequence[Comparison], matched: Sequence[Matched]
) -> Iterator[Comparison]:
    """The comparisons with the method of the smallest delta, per erased set and strength."""
    least: dict[tuple[str, float | None], Matched] = {}
    for one in matched:
        key = (one.erased, one.esr1)
        known = not math.isnan(one.delta.value)
        if known and (key not in least or one.delta.value < least[key].delta.value):
            least[key] = one
    for pair in comparisons:
        best = least.get((pair.erased, pair.esr1))
        if best is not None and best.method in (pair.method, pair.other):
            yield pair


def _of_method(value: Callable[[Row], Any]) -> Callable[[Row], Any]:
    """Nothing for the un-erased model."""
    return lambda row: None if _is_base(row) else value(row)


def _mark(row: Row) -> str:
    return "best" if row.best else "tied" if row.tied else ""


def _rate(key: str, **more: Any) -> Column:
    """ESR-k or PSR-k: before → after with its interval; narrow without what can go."""
    title, before = f"{key[:3].upper()}-{key[3]}", f"{key}_before"

    def both(row: Row) -> Any:
        after = getattr(row, key)
        return after if _is_base(row) else (getattr(row, before), after)

    bare = Column(key, title, _SHARE, "higher")
    after = replace(bare, write=_RATE, narrow=(12, bare))
    return replace(after, value=both, narrow=(9 if key[:3] == "esr" else 6, after), **more)


def _own(key: str) -> Callable[[Row], Any]:
    """A field of a row; nothing for the un-erased model."""
    return lambda row: None if _is_base(row) else getattr(row, key)


def _method_columns(rows: Sequence[Row]) -> list[Column]:
    """Erasure first, then what it cost, then what it took; terminals drop in twelve steps."""
    pooled = any(not math.isnan(row.delta_pool.value) for row in rows)
    aside = _SCREEN if pooled else f"{_SCREEN} paper"

    def method(row: Row) -> str:
        return row.method + (f" ({row.failed} failed)" if row.failed else "")

    def alignments(row: Row) -> Any:
        after = row.alignment_after
        return after if _is_base(row) else (row.alignment_before, after)

    def worst(letters: int | None, lost: tuple[str, float]) -> str:
        return f"{lost[0][:letters]} {_ALIGNMENT(lost[1])}"

    align = Column("alignment_after", "align", _ALIGNMENT, "lower")
    short = Column("worst", "worst", partial(worst, SHORT_NAME), "lower", left=True)
    pool = Column("delta_pool", "pool", _PLAIN, "lower", _own("delta_pool"), optional=True)
    return [
        Column("erased", media="paper"),
        Column("method", value=method),
        _rate("esr1"),
        _rate("esr5", media=aside, optional=True, drop=1),
        Column(
            *("alignment", "alignment\nbefore → after", _ALIGNMENT, "lower", alignments),
            media=_SCREEN,
            narrow=(4, align),
        ),
        Column("delta", "delta\nheld-out", _DELTA, "lower", _own("delta"), _mark),
        _rate("psr1"),
        _rate("psr5", media=aside, optional=True, drop=1),
        Column(
            *("harmed", "", _SHARE, "lower", _own("harmed")),
            media=_SCREEN,
            optional=True,
            drop=9,
        ),
        replace(
            short,
            heading="worst\nheld-out",
            write=partial(worst, None),
            media=_SCREEN,
            drop=10,
            narrow=(5, short),
        ),
        replace(pool, heading="delta\npool", write=_DELTA, drop=11, narrow=(3, pool)),
        Column(
            *("unet_passes", "UNet\npasses", thousands, "", _own("unet_passes")),
            left=False,
            media=_SCREEN,
            drop=8,
        ),
        Column("seconds", "s", Number(0), "", _own("seconds"), media=_SCREEN, drop=7),
        Column("seeds", "", Number(0), "", _own("seeds"), drop=2),
        Column("images", "", Number(0), media=_SCREEN, drop=2),
    ]


def _measure_columns(rows: Iterable[Row], media: str) -> list[Column]:
    """A column per further measure and split that a row has, and per metric of the suite's own.

    What counts single parts, "NAME/PART", is left to the files and to `parts_table`.
    """
    rows = tuple(rows)
    keys = dict.fromkeys(
        (n, split) for row in rows for n, own in row.measures.items() for split in own
    )
    metrics = {name: one.higher_is_better for row in rows for name, one in row.metrics.items()}

    def place(key: tuple[str, str]) -> int:
        return next(i for i, start in enumerate(_ORDER) if key[0].startswith(start))

    def measure(name: str, split: Any) -> Column:
        rate = name.startswith(NER)
        plain = f"NER {name.removeprefix(NER)}" if rate else _TITLES.get(name, name)
        better: Better = ""
        if name == CLIP_SCORE or (name in (LPIPS, DISTANCE) and split == "erased"):
            better = "higher"
        elif rate or name in (FID, LPIPS, DISTANCE):
            better = "lower"
        write = _SHARE if rate else Number(3 if name == LPIPS else 2)
        return Column(
            f"{name}_{split}",
            f"{plain}\n{split}",
            write,
            better,
            value=lambda row: row.measures.get(name, {}).get(split, NOTHING),
            media=media,
        )

    def metric(name: str, higher: bool) -> Column:
        return Column(
            name,
            write=_DELTA,
            better="higher" if higher else "lower",
            value=lambda row: row.metrics[name].estimate if name in row.metrics else NOTHING,
            media=media,
        )

    own = sorted((key for key in keys if "/" not in key[0]), key=place)
    return [*(measure(*key) for key in own), *(metric(*one) for one in metrics.items())]

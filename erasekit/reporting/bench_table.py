"""The tables of a benchmark: one definition of their columns for every form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from erasekit.bench.records import BASE, Comparison, ConceptRow, Matched, Row, Summary
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

LEGEND = "delta: alignment lost at the same starting noise; 0 is best."
SHORT_NAME = 10
"""Letters of the worst concept where a terminal is narrow."""

_SCREEN, _BESIDE = "terminal page", "page paper"
_PLAIN, _DELTA, _SIGNED = Number(2), Number(2, interval=True), Number(2, sign=True, interval=True)
_ALIGNMENT, _COUNT = Number(1), Number(0)
_SHARE, _RATE = Number(0, share=True), Number(0, share=True, interval=True)

_MEASURES: dict[str, tuple[str, Number, Better]] = {
    "fid": ("FID", _PLAIN, "lower"),
    "clip-score": ("CLIP score", _PLAIN, "higher"),
    "lpips": ("LPIPS", Number(3), "lower"),
    "clip-distance": ("distance", _PLAIN, "lower"),
}
"""Further measures in their order: heading, how they are written, and which way is good."""
_FAR = ("lpips", "clip-distance")
"""Measures of which more is better for erased concepts."""
_NUDENET = "parts/"
_SPLITS = ("probe", "erased", "held-out", "pool", "caption")
"""Whose images come first: prompts that ask for what is erased."""


def bench_table(summary: Summary, about: Mapping[str, Any]) -> RenderableType:
    """All tables of a sweep for a terminal, with what they say in sentences."""
    methods = methods_table(summary)
    parts: list[RenderableType] = [replace(methods, legend=[_judged(about), LEGEND]), Text()]
    if measures := measures_table(summary):
        parts += [measures, Text()]
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
            parts.append(
                Text(f"{one.erased}, at ESR-1 {percent(one.esr1 or 0.0)}: {one.verdict}{note}")
            )
    return Group(*parts, *(Text(note, style="yellow") for note in summary.notes))


def bench_tables(summary: Summary) -> dict[str, Table]:
    """The tables of a page; what there is nothing of is left out."""
    methods = methods_table(summary)
    overall_first = sorted(methods.groups.items(), key=lambda group: group[0].startswith("Erased"))
    tables = {
        "bench": replace(methods, rows=dict(overall_first)),
        "comparisons": comparisons_table(summary.comparisons),
        "matched": matched_table(summary),
        "between_matched": comparisons_table(summary.matched_comparisons),
        "parts": parts_table(summary),
        "concepts": concepts_table(summary),
    }
    return {name: table for name, table in tables.items() if table.all_rows}


def export_table(summary: Summary, what: str, about: Mapping[str, Any]) -> Table | None:
    """One of `TABLES` for a file; None where it has no row.

    CSV, JSON and Parquet hold every field of the `--json` rows at full precision; Markdown and
    LaTeX the columns that a paper prints, rounded.

    Args:
        summary: the rows.
        what: one of `TABLES`.
        about: what the benchmark says about itself; suite and judges stand in every table.
    """
    fields, build = TABLES[what]
    plain = summary_json(summary)
    data = [{**origin(about), **row} for field in fields for row in plain[field]]
    if not data:
        return None
    table = build(summary)
    return replace(table, legend=[_judged(about), *table.legend], data=data)


def methods_table(summary: Summary) -> Table:
    """Every method on every erased set: erasure, what it cost, what it took; base first."""
    rows = (*summary.overall, *summary.rows)
    columns = [*_method_columns(rows), *_measure_columns(rows, _BESIDE)]
    return Table("", columns, _by_set(summary), [LEGEND], pinned=_is_base)


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

    def most(own: Mapping[str, ConceptRow]) -> float:
        known = [row.delta.value for row in own.values() if not math.isnan(row.delta.value)]
        return max(known, default=-math.inf)

    def harmed(method: str, own: Mapping[str, ConceptRow]) -> str:
        return "harmed" if method in own and own[method].p_harmed < SIGNIFICANT else ""

    def column(method: str) -> Column:
        return Column(
            method,
            write=_SIGNED,
            better="lower",
            help=GLOSSARY["delta"],
            value=lambda own: own[method].delta if method in own else NOTHING,
            mark=lambda own: harmed(method, own),
        )

    methods = dict.fromkeys(row.method for row in summary.rows)
    return Table(
        "Delta of every concept that should stay, what lost most first",
        [
            Column("concept", value=_of_first("concept")),
            *(column(m) for m in methods if any(m in own for own in found.values())),
            Column("erased", value=_of_first("erased")),
            Column("split", value=_of_first("split")),
            Column("family", value=_of_first("family"), media=_SCREEN),
        ],
        sorted(found.values(), key=lambda own: -most(own)),
        ["Brackets: 95 % intervals."],
        filters=("erased", "split"),
    )


def comparisons_table(comparisons: Sequence[Comparison]) -> Table:
    """Pairs of methods; where they are compared at the same strength of erasure, also at which."""
    matched = any(one.esr1 is not None for one in comparisons)
    at = ", where their runs first reach the same strength of erasure" if matched else ""
    difference = "Delta of the first minus delta of the second, paired"
    adjusted = "Two-sided, Holm-adjusted over the pairs of the erased set"
    return Table(
        f"Methods against each other, on the same concepts, noises and erasure seeds{at}",
        [
            Column("verdict", media=_SCREEN),
            Column("erased"),
            Column("method", media="paper"),
            Column("other", media="paper"),
            Column("esr1", "at ESR-1", _SHARE, optional=True),
            Column("difference", "difference of delta", _SIGNED, help=difference),
            Column("p_value", "p (Holm)", p_value, left=False, help=adjusted),
            Column("note", value=lambda one: one.difference.note or None, optional=True),
        ],
        comparisons,
        filters=("erased",),
    )


def matched_table(summary: Summary) -> Table:
    """Delta where runs first reach the same strength of erasure, a column per strength."""
    found: dict[tuple[str, str], dict[float, Matched]] = {}
    for one in summary.matched:
        found.setdefault((one.erased, one.method), {})[one.esr1] = one
    groups: dict[str, list[Mapping[float, Matched]]] = {}
    for (erased, _), own in found.items():
        groups.setdefault(_set_title(erased, summary), []).append(own)

    def column(esr1: float, key: str, heading: str, write: Number, **more: Any) -> Column:
        def value(own: Mapping[float, Matched]) -> Any:
            return getattr(own[esr1], key) if esr1 in own else math.nan

        return Column(f"{key}_{100 * esr1:.0f}", heading, write, value=value, **more)

    columns = [
        Column("erased", value=_of_first("erased"), media="paper"),
        Column("method", value=_of_first("method")),
    ]
    for esr1 in sorted({one.esr1 for one in summary.matched}):
        heading, meaning = f"delta at ESR-1 {percent(esr1)}", GLOSSARY["matched erasure"]
        columns += [
            column(esr1, "delta", heading, _DELTA, better="lower", help=meaning),
            column(esr1, "step", "step", _COUNT, media="paper"),
        ]
    return Table("At matched erasure", columns, groups)


def parts_table(summary: Summary) -> Table:
    """A row per method and kind of images, a column per part; without rows where none counts."""
    every = (*summary.overall, *summary.rows)
    names = list(dict.fromkeys(n for row in every for n in row.measures if "/" in n))

    def parts(row: Row, split: Any) -> dict[str, Any] | None:
        own = {name: row.measures.get(name, {}).get(split, NOTHING) for name in names}
        images = max(
            (one.n for name, one in own.items() if split in row.measures.get(name, {})),
            default=None,
        )
        return (
            None if images is None else {"method": row.method, "images": split, "n": images} | own
        )

    def column(name: str) -> Column:
        return Column(
            name, part_title(name), Number(3), "lower" if name.startswith(_NUDENET) else ""
        )

    rows = {
        title: [line for split in _SPLITS for row in own if (line := parts(row, split))]
        for title, own in _by_set(summary).items()
    }
    nude = all(name.startswith(_NUDENET) for name in names)
    what = "Exposed parts that NudeNet finds" if nude else "What is counted part by part"
    return Table(
        f"{what}, mean per image after the erasure",
        [
            Column("method"),
            Column("images", "images of"),
            *map(column, names),
            Column("n", "images", _COUNT),
        ],
        rows,
        pinned=lambda line: bool(line["method"] == BASE),
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
        unerased = f" (un-erased: {percent(base.esr1)})" if base else ""
        sentence = (
            f"{where}, {best.method} harms held-out concepts least: delta "
            f"{with_interval(best.delta)} at ESR-1 {percent(best.esr1)}{unerased}."
        )
        if tied := [row.method for row in own if row.tied]:
            sentence += f" It can't be told from {' and '.join(tied)}."
        stronger = [r for r in own if r.esr1.value > best.esr1.value and r.method != best.method]
        if stronger:
            names = ", ".join(f"{r.method} ({percent(r.esr1)})" for r in stronger)
            sentence += f" More was erased by {names}."
        sentences.append(sentence)
    return sentences


def origin(about: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, by which scorer and classifier, as columns.

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
    """A line on what was measured and by what."""
    said = origin(about)
    both = said["classifier"] == f"{said['scorer']} zero-shot"
    judges = " and classifier" if both else f" {said['scorer']}, classifier"
    return (
        f"{said['suite']} {said['suite_version']} on {said['model']}, {said['protocol']} protocol; "
        f"scorer{judges} {said['scorer' if both else 'classifier']}."
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


def _of_first(attribute: str) -> Callable[[Mapping[Any, Any]], Any]:
    """What all values of a row have in common."""
    return lambda own: getattr(next(iter(own.values())), attribute)


def _own(key: str) -> Callable[[Row], Any]:
    """A field of a row; nothing for the un-erased model."""
    return lambda row: None if _is_base(row) else getattr(row, key)


def _both(before: str, after: str) -> Callable[[Row], Any]:
    """Two fields of a row; the latter alone for the un-erased model."""

    def value(row: Row) -> Any:
        last = getattr(row, after)
        return last if _is_base(row) else (getattr(row, before), last)

    return value


def _rate(key: str, **more: Any) -> Column:
    """ESR-k or PSR-k: before → after with its interval; the narrowest terminals show it alone."""
    bare = Column(key, f"{key[:3].upper()}-{key[3]}", _SHARE, "higher")
    after = replace(bare, write=_RATE, narrow=(12, bare))
    return replace(after, value=_both(f"{key}_before", key), **{"narrow": (11, after), **more})


def _method_columns(rows: Sequence[Row]) -> list[Column]:
    """Erasure first, then what it cost, then what it took; terminals narrow in twelve steps."""
    pooled = any(not math.isnan(row.delta_pool.value) for row in rows)
    fifth = {"media": _SCREEN if pooled else "terminal page paper", "optional": True}

    def worst(lost: tuple[str, float], letters: int | None = None) -> str:
        return f"{lost[0][:letters]} {_ALIGNMENT(lost[1])}"

    def short(lost: tuple[str, float]) -> str:
        return worst(lost, SHORT_NAME)

    align = Column("alignment_after", "align", _ALIGNMENT, "lower")
    short_worst = Column("worst", "worst", short, "lower", left=True, narrow=(9, None))
    pool = Column(
        "delta_pool", "pool", _PLAIN, "lower", _own("delta_pool"), optional=True, narrow=(10, None)
    )

    def cost(key: str, heading: str, write: Any, step: int, **more: Any) -> Column:
        return Column(key, heading, write, value=_own(key), narrow=(step, None), **more)

    return [
        Column("erased", media="paper"),
        Column("method", value=lambda r: r.method + (f" ({r.failed} failed)" if r.failed else "")),
        _rate("esr1"),
        _rate("esr5", narrow=(1, None), **fifth),
        Column(
            "alignment",
            "alignment\nbefore → after",
            _ALIGNMENT,
            "lower",
            _both("alignment_before", "alignment_after"),
            media=_SCREEN,
            narrow=(4, align),
        ),
        Column("delta", "delta [95 %]\nheld-out", _DELTA, "lower", _own("delta"), _mark),
        _rate("psr1"),
        _rate("psr5", narrow=(1, None), **fifth),
        cost("harmed", "", _SHARE, 8, better="lower", media=_SCREEN, optional=True),
        replace(
            short_worst,
            heading="worst\nheld-out",
            write=worst,
            media=_SCREEN,
            narrow=(5, short_worst),
        ),
        replace(pool, heading="delta\npool", write=_DELTA, narrow=(3, pool)),
        cost("unet_passes", "UNet\npasses", thousands, 7, left=False, media=_SCREEN),
        cost("seconds", "s", _COUNT, 6, media=_SCREEN),
        cost("seeds", "", _COUNT, 2),
        Column("images", "", _COUNT, media=_SCREEN, narrow=(2, None)),
    ]


def _mark(row: Row) -> str:
    return "best" if row.best else "tied" if row.tied else ""


def _measure_columns(rows: Iterable[Row], media: str) -> list[Column]:
    """A column per further measure and split that a row has, and per metric of the suite's own.

    What counts single parts, "NAME/PART", is left to the files and to `parts_table`.
    """
    rows = tuple(rows)
    keys = dict.fromkeys(
        (n, split) for row in rows for n, own in row.measures.items() for split in own
    )
    metrics = {name: one.higher_is_better for row in rows for name, one in row.metrics.items()}
    order = [*_MEASURES, "ner-0.5", "ner-", ""]

    def place(key: tuple[str, str]) -> int:
        return next(i for i, start in enumerate(order) if key[0].startswith(start))

    def measure(name: str, split: Any) -> Column:
        heading, write, better = _MEASURES.get(name, (name, _PLAIN, ""))
        if name.startswith("ner-"):
            heading, write, better = f"NER {name[4:]}", _SHARE, "lower"
        return Column(
            f"{name}_{split}",
            f"{heading}\n{split}",
            write,
            "higher" if name in _FAR and split == "erased" else better,
            lambda row: row.measures.get(name, {}).get(split, NOTHING),
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


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Summary], Table]]] = {
    "methods": (("rows", "overall"), methods_table),
    "concepts": (("per_concept",), concepts_table),
    "comparisons": (("comparisons",), lambda summary: comparisons_table(summary.comparisons)),
    "matched": (("matched",), matched_table),
    "matched-comparisons": (
        ("matched_comparisons",),
        lambda summary: comparisons_table(summary.matched_comparisons),
    ),
}
"""The tables that can be exported: the fields of `summary_json` that each holds, and its maker."""

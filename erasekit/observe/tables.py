"""The observations as tables, and as one page of Markdown."""

from __future__ import annotations

import math

from erasekit.observe.findings import (
    ImpactResult,
    MarkedWord,
    PreserveResult,
    SpectrumResult,
    Strength,
)
from erasekit.reporting.plain import PlainTable
from erasekit.reporting.table import Number, percent, with_interval

UP, DOWN = "↑", "↓"
ENDS = 15
"""Words at either end of a spectrum that are listed."""

Result = ImpactResult | SpectrumResult | PreserveResult


def observation_tables(result: Result) -> list[PlainTable]:
    """The tables of a result, the longest last."""
    if isinstance(result, ImpactResult):
        return _impact(result)
    if isinstance(result, SpectrumResult):
        return _spectrum(result)
    return _preserve(result)


def observation_page(title: str, result: Result, how: str) -> str:
    """A page of Markdown: the sentence, the figure, the tables, and how they were made.

    Args:
        title: of the page.
        result: what was measured.
        how: the command.
    """
    remarks = "".join(f"\n{remark}\n" for remark in result.remarks)
    tables = "\n".join(table.markdown() for table in observation_tables(result))
    return (
        f"# {title}\n\n**{result.sentence}**\n{remarks}\n![{title}](figure.png)\n\n{tables}\n"
        "Alignment is 100 x cosine; delta is its loss at the same noise, 0 is best. Intervals are "
        f"95 %.\n\nMade by\n\n    {how}\n"
    )


def _impact(result: ImpactResult) -> list[PlainTable]:
    labels = tuple(erasure.erased for erasure in result.erasures)
    erasures = PlainTable(
        "What was erased",
        ("erased", f"alignment {DOWN}", f"ESR-1 {UP}", "mean delta"),
        tuple(
            (e.erased, f"{before} → {after}", rate, with_interval(e.delta))
            for e in result.erasures
            for before, after, rate in [_strength(e.strength)]
        ),
    )
    rows = []
    for c in result.contrasts:
        for own, other, values in (
            (c.first, c.second, (c.first_own, c.second_other, c.first_gap)),
            (c.second, c.first, (c.second_own, c.first_other, c.second_gap)),
        ):
            rows.append((own, other, *map(with_interval, values)))
    contrasts = PlainTable(
        "delta of the concepts related to an erasure",
        ("related to", "against", "by erasing it", "by the other", "more by its own"),
        tuple(rows),
        words=2,
    )
    by_harm = sorted(
        result.concepts,
        key=lambda c: max((d.value for d in c.deltas if not math.isnan(d.value)), default=-1e9),
        reverse=True,
    )
    concepts = PlainTable(
        "delta per concept, the most harmed first",
        ("concept", "family", *labels),
        tuple((c.concept, c.family, *map(with_interval, c.deltas)) for c in by_harm),
        words=2,
    )
    return [erasures, contrasts, concepts]


def _spectrum(result: SpectrumResult) -> list[PlainTable]:
    columns = ("word", "", "sensitivity", "less sensitive words", "95 % interval")
    marked = PlainTable(
        f"Among {len(result.words)} words",
        columns,
        tuple(
            _marked(word, nature)
            for nature, words in (("neutral", result.neutral), ("erased", result.targets))
            for word in words
        ),
        words=2,
    )
    sample = PlainTable(
        "A sample along the spectrum",
        ("word", "sensitivity", "less sensitive words", "delta"),
        tuple(
            (w.word, _small(w.sensitivity), percent(w.quantile), with_interval(w.delta))
            for w in result.sample
        ),
    )
    pairs = list(zip(result.words, map(_small, result.sensitivities), strict=True))
    count = min(ENDS, len(pairs))
    ends = PlainTable(
        f"The {count} most and the {count} least sensitive words",
        ("most sensitive", "", "least sensitive", ""),
        tuple(
            (*most, *least) for most, least in zip(pairs[::-1][:count], pairs[:count], strict=True)
        ),
    )
    return [marked, sample, ends]


def _preserve(result: PreserveResult) -> list[PlainTable]:
    runs = PlainTable(
        f"Erased: {result.erased}; mean delta over {len(result.concepts)} held-out concepts",
        ("kept", "", "cosine", f"align {DOWN}", f"ESR-1 {UP}", f"mean delta {DOWN}", "saved"),
        tuple(
            (
                run.label,
                "" if run.nature == "none" else run.nature,
                Number(2)(run.similarity),
                *_strength(run.strength)[1:],
                with_interval(run.delta),
                "" if run.nature == "none" else with_interval(run.saved),
            )
            for run in result.runs
        ),
        words=2,
    )
    contrasts = PlainTable(
        "How much lower mean delta is with the related concept kept",
        ("than with", "lower by"),
        tuple((c.other, with_interval(c.lower)) for c in result.contrasts),
    )
    return [runs, contrasts]


def _strength(strength: Strength) -> tuple[str, str, str]:
    """Alignment before and after, and ESR-1."""
    before, after = strength.alignment_before.value, strength.alignment_after.value
    return Number(1)(before), Number(1)(after), percent(strength.esr1.value)


def _marked(word: MarkedWord, nature: str) -> tuple[str, ...]:
    interval = "-" if math.isnan(word.low) else f"[{percent(word.low)}, {percent(word.high)}]"
    name = word.word or '""'
    return name, nature, _small(word.sensitivity), percent(word.quantile), interval


def _small(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"

"""A report as one HTML file that needs nothing else: no network, no other file, no server.

The page may run one script, its own: the policy in its head names the script's hash. Whatever a
concept or a model is called stands in it as text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from erasekit.bench.records import ConceptRow, Row, Summary
from erasekit.reporting.bench_table import BASE, bench_tables, classes_by, findings
from erasekit.reporting.figures import Style, harm_figure, history_figures, inline_svg, styles
from erasekit.reporting.glossary import GLOSSARY
from erasekit.reporting.pareto import pareto_figure, pareto_panels
from erasekit.reporting.pictures import Budget, Embedded
from erasekit.reporting.results import BenchResult, ConceptImages, Gallery, Report, RunResult
from erasekit.reporting.run_table import (
    adversaries_table,
    adversary_uses,
    history_table,
    measures_tables,
    settings_table,
)
from erasekit.reporting.table import Number, Table, percent, templates, with_interval

TEMPLATES = Path(__file__).parent / "templates"
IMAGE_EDGE, SHEET_EDGE = 256, 1600
"""Longest side of one image, and of a sheet of images, in pixels."""
NOISES_ERASED, NOISES_KEPT = 4, 1
"""Noises shown per concept."""
FIRST_CARDS = 8
"""Concepts of a gallery that are seen at once; the others are folded away."""
HISTORY_ROWS, WORDS = 12, 10
LIMIT = 16_000_000
"""Bytes of pictures where nobody says otherwise."""


@dataclass(frozen=True)
class Page:
    """A written report.

    Attributes:
        html: the file.
        images: pictures in it.
        left_out: concepts whose pictures were left out to keep it small.
    """

    html: str
    images: int
    left_out: int


@dataclass(frozen=True)
class Plot:
    """A figure of a page: the drawing, what it says in words, and a caption."""

    svg: Markup
    alt: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """One image of a strip."""

    image: Embedded
    alt: str
    caption: str
    remark: str = ""


@dataclass(frozen=True)
class Card:
    """One concept of a gallery: a strip of pictures per noise."""

    concept: str
    split: str
    strips: Sequence[Sequence[Picture]]


def render(report: Report, *, limit: int = LIMIT) -> Page:
    """The page of a report; the same report gives the same page.

    Args:
        report: what goes on it.
        limit: bytes that its pictures may take. What matters less is left out, and the page says
            so.
    """
    budget = Budget(limit)
    benches = [result for result in report.results if isinstance(result, BenchResult)]
    looks = styles([row.method for bench in benches for row in bench.summary.rows])
    sections, left_out = [], 0
    for position, result in enumerate(report.results):
        end = budget.share(len(report.results) - position)
        name = f"s{position + 1}"
        if isinstance(result, BenchResult):
            section = _bench_section(result, name, budget, end, looks)
            left_out += sum(gallery["left_out"] for gallery in section["galleries"])
        else:
            section = _run_section(result, name, budget, end)
        sections.append(section)
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    html = (
        templates()
        .get_template("page.html")
        .render(
            title=report.title or _title(sections),
            report=report,
            sections=sections,
            glossary=GLOSSARY,
            limit=limit,
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode(),
        )
    )
    return Page(html, budget.count, left_out)


def _title(sections: Sequence[Mapping[str, Any]]) -> str:
    others = len(sections) - 1
    return f"{sections[0]['title']}" + (f" and {others} more" if others else "")


def _bench_section(
    result: BenchResult, name: str, budget: Budget, end: int, looks: Mapping[str, Style]
) -> dict[str, Any]:
    summary, about = result.summary, result.about
    methods = list(dict.fromkeys(row.method for row in summary.rows))
    galleries = []
    for position, gallery in enumerate(result.galleries):
        share = budget.used + (end - budget.used) // (len(result.galleries) - position)
        galleries.append(_gallery(gallery, methods, summary, budget, share))
    sets = list(dict.fromkeys(row.erased for row in summary.rows))
    seeds = max((row.seeds for row in summary.rows), default=0)
    tables = bench_tables(summary)
    return {
        "kind": "bench",
        "id": name,
        "title": f"{about['suite']} on {about['model']}",
        "subtitle": result.name,
        "facts": {
            "methods": ", ".join(m for m in methods if m != BASE),
            "erased sets": ", ".join(sets),
            "erasure seeds": str(seeds),
            "images": f"{sum(row.images for row in summary.rows):,}",
            "scorer": _scorer_name(about["scorer"]),
            "classes by": classes_by(about),
        },
        "findings": findings(summary),
        "notes": (*about.get("left_out", ()), *summary.notes),
        "failures": summary.failures,
        "tables": tables,
        "pareto": list(_pareto_plots(summary, looks, name)),
        "harm": list(_harm_plots(summary, looks, name)),
        "galleries": galleries,
        "commands": result.commands,
        "provenance": {
            **_flat(about),
            **{f"generation: {key}": str(value) for key, value in result.generation.items()},
            **{f"version of {key}": " or ".join(own) for key, own in result.versions.items()},
        },
        "settings": settings_table(result.settings) if result.settings else None,
    }


def _pareto_plots(summary: Summary, looks: Mapping[str, Style], name: str) -> Iterator[Plot]:
    for number, (title, rows) in enumerate(pareto_panels(summary).items()):
        yield _plot(
            pareto_figure(title, rows, looks),
            f"{name}p{number}",
            f"Erasure against harm, {title}: " + "; ".join(map(_point_in_words, rows)) + ".",
            f"Erasure against harm, {title}. Up and left is good. The dashed line joins what no "
            "other method beats in both; bars are 95 % intervals.",
        )


def _harm_plots(summary: Summary, looks: Mapping[str, Style], name: str) -> Iterator[Plot]:
    for number, erased in enumerate(dict.fromkeys(row.erased for row in summary.per_concept)):
        own = [row for row in summary.per_concept if row.erased == erased]
        figure = harm_figure(own, looks, f"erased: {erased}")
        if figure is not None:
            yield _plot(
                figure,
                f"{name}h{number}",
                f"Delta of the concepts that lost most when {erased} was erased; all numbers are "
                "in the table of concepts.",
                f"The concepts that lost most, erased: {erased}. Right is harm; bars are 95 % "
                "intervals, cut off where they are much wider than what is shown.",
            )


def _point_in_words(row: Row) -> str:
    if row.method == BASE:
        return f"un-erased model, ESR-1 {percent(row.esr1.value)}"
    return f"{row.method}, ESR-1 {percent(row.esr1.value)}, delta {with_interval(row.delta)}"


def _gallery(
    gallery: Gallery, methods: Sequence[str], summary: Summary, budget: Budget, end: int
) -> dict[str, Any]:
    rows: dict[str, dict[str, ConceptRow]] = {}
    for row in summary.per_concept:
        if row.erased == gallery.erased:
            rows.setdefault(row.concept, {})[row.method] = row
    cards: list[Card] = []
    for concept in gallery.concepts:
        card = _card(concept, methods, rows.get(concept.concept, {}), gallery.erased, budget, end)
        if card is None:
            break
        cards.append(card)
    return {
        "erased": gallery.erased,
        "first": cards[:FIRST_CARDS],
        "more": cards[FIRST_CARDS:],
        "columns": len([m for m in methods if any(m in c.images for c in gallery.concepts)]),
        "splits": list(dict.fromkeys(card.split for card in cards)),
        "left_out": len(gallery.concepts) - len(cards),
    }


def _card(
    concept: ConceptImages,
    methods: Sequence[str],
    rows: Mapping[str, ConceptRow],
    erased: str,
    budget: Budget,
    end: int,
) -> Card | None:
    drawn = [method for method in methods if method in concept.images]
    count = NOISES_ERASED if concept.split == "erased" else NOISES_KEPT
    noises = range(min(count, len(concept.noises)))
    pictures = [concept.images[method][noise] for noise in noises for method in drawn]
    found = budget.embed(pictures, IMAGE_EDGE, end)
    if found is None:
        return None
    images = iter(found)
    strips = []
    for noise in noises:
        strip = []
        for method in drawn:
            how = "before" if method == BASE else f"after {method} erased {erased}"
            alt = f"{concept.concept}, noise {noise + 1}, {how}"
            delta = rows[method].delta.value if method in rows else math.nan
            remark = "" if math.isnan(delta) else Number(2, sign=True)(delta)
            strip.append(Picture(next(images), alt, method, remark))
        strips.append(strip)
    return Card(concept.concept, concept.split, strips)


def _run_section(result: RunResult, name: str, budget: Budget, end: int) -> dict[str, Any]:
    info, history = result.info, result.history
    sheets = []
    for what, image in result.sheets.items():
        found = budget.embed([image], SHEET_EDGE, end)
        sheets.append({"what": what, "image": found[0] if found else None})
    uses = adversary_uses(history, WORDS)
    tables: dict[str, Table] = {}
    if result.measures is not None:
        tables["erased"], tables["kept"] = measures_tables(result.measures)
    if uses:
        tables["adversaries"] = adversaries_table(uses, info, history)
    if history:
        tables["trace"] = history_table(history, HISTORY_ROWS)
    plots = [
        _plot(
            figure,
            f"{name}c{number}",
            f"{label} by step",
            f"By step: {label}. Smoothed over a twentieth of the run; raw values are faint.",
        )
        for number, (label, figure) in enumerate(history_figures(history).items())
    ]
    passes, seconds = info["unet_passes"], info["seconds"]
    return {
        "kind": "run",
        "id": name,
        "title": f"{' + '.join(info['concepts'])}, erased by {info['method']}",
        "subtitle": result.name,
        "facts": {
            "model": info["base_model"]["id"],
            "scope": str(info["config"].get("scope", "")),
            "steps": str(len(history)),
            "UNet passes": f"{passes['forward']:,} forward, {passes['backward']:,} backward",
            "seconds": f"{seconds['total']:.0f}",
        },
        "measured": result.measures is not None,
        "remarks": (result.measures or {}).get("remarks", []),
        "tables": tables,
        "plots": plots,
        "sheets": sheets,
        "commands": [info["command"]],
        "provenance": {
            "model": info["base_model"]["id"],
            "model hash": info["base_model"]["hash"],
            "seed": str(info["seed"]),
            "neutral concept": repr(info["neutral"]),
            "kept on purpose": ", ".join(info["keep"]) or "nothing",
            **{f"version of {key}": value for key, value in info["versions"].items()},
        },
        "settings": settings_table(
            {info["method"]: {key: [str(value)] for key, value in info["config"].items()}}
        ),
    }


def _plot(figure: Figure, name: str, alt: str, caption: str) -> Plot:
    return Plot(Markup(inline_svg(figure, name)), alt, caption)


def _scorer_name(identity: Any) -> str:
    return str(identity.get("name", "")) if isinstance(identity, Mapping) else str(identity)


def _in_words(entry: Mapping[str, Any] | str) -> str:
    """An entry of a list of what was measured, such as a measure's identity, or a sentence."""
    if isinstance(entry, str):
        return entry
    return ", ".join(
        f"{key} {'+'.join(own) if isinstance(own, list) else own}"
        for key, own in entry.items()
        if own
    )


def _flat(about: Mapping[str, Any]) -> dict[str, str]:
    """`about` with nested keys joined by a colon."""
    found: dict[str, str] = {}
    for key, value in about.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            found.update({f"{name}: {inner}": str(own) for inner, own in value.items()})
        elif isinstance(value, list):
            found[name] = "; ".join(map(_in_words, value)) or "none"
        else:
            found[name] = str(value)
    return found

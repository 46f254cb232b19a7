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

import erasekit
from erasekit.bench.records import BASE, Row, Summary
from erasekit.reporting.bench_table import bench_tables, classes_by, findings
from erasekit.reporting.figures import (
    Style,
    harm_figure,
    history_figures,
    inline_svg,
    pareto_figure,
    pareto_panels,
    styles,
)
from erasekit.reporting.glossary import GLOSSARY
from erasekit.reporting.pictures import Budget
from erasekit.reporting.results import BenchResult, ConceptImages, RunResult
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

Part = dict[str, Any]
"""What a template shows: a section, a plot, a card of pictures."""


@dataclass(frozen=True)
class Page:
    """A report, its number of pictures, and of how many concepts they were left out."""

    html: str
    images: int
    left_out: int


def render(
    results: Sequence[BenchResult | RunResult],
    *,
    title: str = "",
    command: str = "",
    limit: int = LIMIT,
) -> Page:
    """The page of some results, a section each; the same results give the same page.

    Args:
        results: what goes on it.
        title: of the page; "" takes that of the first section.
        command: the command line that writes it.
        limit: bytes that pictures may take. What matters less is left out, and the page says so.
    """
    benches = [result for result in results if isinstance(result, BenchResult)]
    looks = styles([row.method for bench in benches for row in bench.summary.rows])
    galleries = sum(len(bench.galleries) for bench in benches)
    budget = Budget(limit, galleries + len(results) - len(benches))
    sections = [
        _bench_section(result, f"s{place}", budget, looks)
        if isinstance(result, BenchResult)
        else _run_section(result, f"s{place}", budget)
        for place, result in enumerate(results, start=1)
    ]
    others = f" and {len(sections) - 1} more" if len(sections) > 1 else ""
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    html = (
        templates()
        .get_template("page.html")
        .render(
            title=title or f"{sections[0]['title']}{others}",
            version=erasekit.__version__,
            command=command,
            sections=sections,
            glossary=GLOSSARY,
            limit=limit,
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode(),
        )
    )
    left_out = [gallery["left_out"] for own in sections for gallery in own.get("galleries", ())]
    return Page(html, budget.count, sum(left_out))


def _bench_section(
    result: BenchResult, name: str, budget: Budget, looks: Mapping[str, Style]
) -> Part:
    summary, about = result.summary, result.about
    methods = list(dict.fromkeys(row.method for row in summary.rows))
    suite, model = about["suite"], about["model"]
    return {
        "kind": "bench",
        "id": name,
        "title": suite if suite == model else f"{suite} on {model}",
        "subtitle": result.name,
        "facts": {
            "methods": ", ".join(m for m in methods if m != BASE),
            "erased sets": ", ".join(dict.fromkeys(row.erased for row in summary.rows)),
            "erasure seeds": str(max((row.seeds for row in summary.rows), default=0)),
            "images": f"{sum(row.images for row in summary.rows):,}",
            "scorer": about["scorer"]["name"],
            "classifier": classes_by(about),
        },
        "findings": findings(summary),
        "notes": (*about.get("left_out", ()), *summary.notes),
        "failures": summary.failures,
        "tables": bench_tables(summary),
        "pareto": list(_pareto_plots(summary, looks, name)),
        "harm": list(_harm_plots(summary, looks, name)),
        "galleries": [
            _gallery(erased, concepts, methods, summary, budget)
            for erased, concepts in result.galleries.items()
        ],
        "commands": result.commands,
        "provenance": {
            **_flat(about),
            **{f"generation: {key}": str(value) for key, value in result.generation.items()},
            **{f"version of {key}": " or ".join(own) for key, own in result.versions.items()},
        },
        "settings": settings_table(result.settings) if result.settings else None,
    }


def _pareto_plots(summary: Summary, looks: Mapping[str, Style], name: str) -> Iterator[Part]:
    for number, (title, rows) in enumerate(pareto_panels(summary).items()):
        yield _plot(
            pareto_figure({title: rows}, looks),
            f"{name}p{number}",
            f"Erasure against harm, {title}: " + "; ".join(map(_point_in_words, rows)) + ".",
            f"Erasure against harm, {title}. Up and left is good. The dashed line joins what no "
            "other method beats in both; bars are 95 % intervals.",
        )


def _harm_plots(summary: Summary, looks: Mapping[str, Style], name: str) -> Iterator[Part]:
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
        return f"un-erased model, ESR-1 {percent(row.esr1)}"
    return f"{row.method}, ESR-1 {percent(row.esr1)}, delta {with_interval(row.delta)}"


def _gallery(
    erased: str,
    concepts: Sequence[ConceptImages],
    methods: Sequence[str],
    summary: Summary,
    budget: Budget,
) -> Part:
    budget.next_part()
    deltas = {
        (row.concept, row.method): row.delta.value
        for row in summary.per_concept
        if row.erased == erased and not math.isnan(row.delta.value)
    }
    cards: list[Part] = []
    for concept in concepts:
        card = _card(concept, methods, deltas, erased, budget)
        if card is None:
            break
        cards.append(card)
    return {
        "erased": erased,
        "first": cards[:FIRST_CARDS],
        "more": cards[FIRST_CARDS:],
        "columns": len([m for m in methods if any(m in c.images for c in concepts)]),
        "splits": list(dict.fromkeys(card["split"] for card in cards)),
        "left_out": len(concepts) - len(cards),
    }


def _card(
    concept: ConceptImages,
    methods: Sequence[str],
    deltas: Mapping[tuple[str, str], float],
    erased: str,
    budget: Budget,
) -> Part | None:
    """A strip of pictures per noise; None where there is no room left."""
    drawn = [method for method in methods if method in concept.images]
    count = NOISES_ERASED if concept.split == "erased" else NOISES_KEPT
    noises = range(min(count, concept.noises))
    pictures = [concept.images[method][noise] for noise in noises for method in drawn]
    found = budget.embed(pictures, IMAGE_EDGE)
    if found is None:
        return None
    images, strips = iter(found), []
    for noise in noises:
        strip = []
        for method in drawn:
            how = "before" if method == BASE else f"after {method} erased {erased}"
            delta = deltas.get((concept.concept, method))
            strip.append(
                {
                    "image": next(images),
                    "alt": f"{concept.concept}, noise {noise + 1}, {how}",
                    "caption": method,
                    "remark": "" if delta is None else Number(2, sign=True)(delta),
                }
            )
        strips.append(strip)
    return {"concept": concept.concept, "split": concept.split, "strips": strips}


def _run_section(result: RunResult, name: str, budget: Budget) -> Part:
    info, history = result.info, result.history
    budget.next_part()
    sheets = []
    for what, image in result.sheets.items():
        found = budget.embed([image], SHEET_EDGE)
        sheets.append({"what": what, "image": found[0] if found else None})
    tables: dict[str, Table] = {}
    if result.measures is not None:
        tables["erased"], tables["kept"] = measures_tables(result.measures)
    if uses := adversary_uses(history, WORDS):
        tables["adversaries"] = adversaries_table(uses, info, history)
    if history:
        tables["trace"] = history_table(history, HISTORY_ROWS)
    config = {key: [str(value)] for key, value in info["config"].items()}
    passes = info["unet_passes"]
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
            "seconds": f"{info['seconds']['total']:.0f}",
        },
        "measured": result.measures is not None,
        "remarks": (result.measures or {}).get("remarks", []),
        "tables": tables,
        "plots": [
            _plot(
                figure,
                f"{name}c{number}",
                f"{label} by step",
                f"By step: {label}. Smoothed over a twentieth of the run; raw values are faint.",
            )
            for number, (label, figure) in enumerate(history_figures(history).items())
        ],
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
        "settings": settings_table({info["method"]: config}),
    }


def _plot(figure: Figure, name: str, alt: str, caption: str) -> Part:
    return {"svg": Markup(inline_svg(figure, name)), "alt": alt, "caption": caption}


def _flat(about: Mapping[str, Any]) -> dict[str, str]:
    """`about` as text, with nested keys joined by a colon and lists by semicolons."""

    def text(value: Any) -> str:
        if not isinstance(value, Mapping):
            return str(value)
        parts = {k: "+".join(v) if isinstance(v, list) else v for k, v in value.items() if v}
        return ", ".join(f"{key} {own}" for key, own in parts.items())

    found: dict[str, str] = {}
    for key, value in about.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            found |= {f"{name}: {inner}": str(own) for inner, own in value.items()}
        elif isinstance(value, list):
            found[name] = "; ".join(map(text, value)) or "none"
        else:
            found[name] = str(value)
    return found

"""Observation 3: keeping a related concept lowers mean delta more than keeping another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from matplotlib.figure import Figure

from erasekit.bench.plan import Sweep, share_settings
from erasekit.bench.records import Record
from erasekit.bench.runner import BenchmarkRunner
from erasekit.bench.suite import Suite
from erasekit.bench.suites import is_neutral
from erasekit.concepts import Erasure, normalised
from erasekit.errors import ConceptError, ConfigError
from erasekit.metrics.scores import NAN, NOTHING, Estimate
from erasekit.models.loading import LoadedModel
from erasekit.observe.observation import (
    DELTA,
    Strength,
    Verdict,
    Watched,
    contrast,
    delta_table,
    kept_words,
    measured,
    one_seed,
    signed,
    strength_columns,
    verdict_of,
)
from erasekit.reporting.figures import COLOURS, Line, Style, draw_lines, new_figure
from erasekit.reporting.table import Column, Number, Table, percent
from erasekit.training.plan import plan_erasure, uses_concept_space

REFERENCE = "none"
"""The method that keeps nothing."""
ESR_APART = 0.1
"""Erasures whose ESR-1 differ by more than this are said to differ."""
OPENINGS = {
    "held": "Held, keeping a related concept lowers mean delta more than keeping another",
    "not held": "Did not hold, keeping a related concept does not lower mean delta most",
    "undecided": "Can't be told whether keeping a related concept lowers mean delta more",
}

Nature = Literal["none", "related", "unrelated", "neutral"]
NATURES = dict(zip(get_args(Nature), map(Style, COLOURS, "oDs^"), strict=True))
"""How each looks in a figure."""


@dataclass(frozen=True)
class Keeping:
    """One erasure.

    `similarity` is the cosine of the kept with the erased concepts in the text encoder's pooled
    output, the nearest pair's; `saved` is delta without kept words, less this one's, at the same
    starting noise and erasure seed.
    """

    kept: tuple[str, ...]
    nature: Nature
    similarity: float
    strength: Strength
    delta: Estimate
    saved: Estimate

    @property
    def label(self) -> str:
        """The kept words as tables name them."""
        return " + ".join(word or '""' for word in self.kept) or "nothing"


@dataclass(frozen=True)
class KeepingContrast:
    """How much lower delta is where related words are kept, than where these are."""

    other: str
    lower: Estimate


@dataclass(frozen=True)
class PreserveResult:
    """Observation 3; the erasure that keeps nothing comes first among `runs`."""

    erased: str
    runs: tuple[Keeping, ...]
    contrasts: tuple[KeepingContrast, ...]
    concepts: tuple[str, ...]
    verdict: Verdict
    sentence: str
    remarks: tuple[str, ...] = ()

    def tables(self) -> list[Table]:
        """What was kept, and the contrasts."""

        def of_kept(key: str, heading: str = "", write: Number | None = None) -> Column:
            def value(run: Keeping) -> object:
                return None if run.nature == "none" else getattr(run, key)

            return Column(key, heading, write or str, value=value)

        shown = [
            Column("kept", value=lambda run: run.label),
            of_kept("nature", " "),
            Column("similarity", "cosine", Number(2)),
            *strength_columns(before=False),
            Column("delta", "mean delta", DELTA, "lower"),
            of_kept("saved", write=DELTA),
        ]
        over = f"mean delta over {len(self.concepts)} held-out concepts"
        return [
            Table(f"Erased: {self.erased}; {over}", shown, self.runs),
            Table(
                "How much lower mean delta is with the related concept kept",
                [Column("other", "than with"), Column("lower", "lower by", DELTA)],
                self.contrasts,
            ),
        ]

    def figure(self) -> Figure:
        """A row per kept concept: mean delta, and what keeping it saves."""
        figure = new_figure(9, 1.6 + 0.5 * len(self.runs))
        left, right = figure.subplots(1, 2, sharey=True)
        deltas: list[Line] = []
        saved: list[Line] = []
        for y, run in enumerate(self.runs):
            label = run.label + (f"\n({run.nature})" if run.nature != "none" else "")
            deltas.append((label, {run.nature: run.delta}))
            saved.append((label, {run.nature: NOTHING if run.nature == "none" else run.saved}))
            esr1 = f"ESR-1 {percent(run.strength.esr1)}"
            place = right.get_yaxis_transform()
            right.text(1.01, y, esr1, fontsize="small", va="center", transform=place)
        draw_lines(left, deltas, NATURES)
        draw_lines(right, saved, NATURES)
        left.set_ylabel("kept")
        left.set_xlabel("mean delta (lower is better); bars: 95 %")
        right.set_xlabel("lower than with nothing kept, paired")
        figure.suptitle(
            f"erased: {self.erased}; {len(self.concepts)} held-out concepts", fontsize="medium"
        )
        return figure


def natures_of(
    sets: Sequence[tuple[str, ...]],
    similarities: Sequence[float],
    related: Sequence[str] = (),
) -> list[Nature]:
    """What each kept set is to the erased concepts.

    Related are those that `related` names, else the nearest set that is not neutral.

    Raises:
        ConfigError: a name in `related` is not kept, or all sets are neutral, or all related.
    """
    labels = ["+".join(words) for words in sets]
    told = ", ".join(labels)
    unknown = [name for name in related if name not in labels]
    if unknown:
        raise ConfigError(f"--related {unknown[0]!r} is not kept; name one of {told}.")
    neutral = [all(map(is_neutral, words)) for words in sets]
    wanted = set(related)
    if not wanted:
        if all(neutral):
            raise ConfigError(
                f"All that is kept is neutral ({told}); keep a concept beside it, as in "
                "--keep road."
            )
        nearest = max(range(len(sets)), key=lambda i: (not neutral[i], similarities[i]))
        wanted = {labels[nearest]}
    if len(wanted) == len(labels):
        raise ConfigError(f"All that is kept is related ({told}); keep another concept beside it.")
    return [
        "related" if label in wanted else "neutral" if is_so else "unrelated"
        for label, is_so in zip(labels, neutral, strict=True)
    ]


def held_out_names(suite: Suite, kept: Sequence[str]) -> list[str]:
    """The held-out concepts of a suite of `common_suite`, without `kept` words and their aliases.

    Raises:
        ConceptError: there is none.
    """
    words = {normalised(word) for word in kept}
    names = [
        c.name
        for c in suite.concepts
        if c.name in suite.spread
        and c.split != "pool"
        and not words & {normalised(name) for name in (c.name, *c.aliases)}
    ]
    if not names:
        raise ConceptError(
            f"The suite {suite.name!r} has no held-out concept that is neither erased nor kept; "
            "choose another one with --suite."
        )
    return names


def similarities_to(
    model: LoadedModel, erasure: Erasure, sets: Sequence[tuple[str, ...]]
) -> list[float]:
    """Cosine of each set with the erased concepts in the text encoder, of its nearest pair.

    Raises:
        ConceptError: a word does not fit the tokenizer.
    """
    erased = model.family.word_features([concept.text for concept in erasure.erased])
    return [float((model.family.word_features(list(words)) @ erased.T).max()) for words in sets]


def run_preserve(
    runner: BenchmarkRunner,
    sweep: Sweep,
    sets: Sequence[tuple[str, ...]],
    watched: Watched = lambda runner, plan: nullcontext(),
) -> list[Record]:
    """Erase with nothing kept, then with each set; `sweep` has one method and one erased set.

    Raises:
        ConfigError: the method keeps no words that one names.
        ConceptError: a kept word is erased too.
    """
    (method,), (erasure,) = sweep.methods, sweep.erasures
    shares = share_settings((REFERENCE, method), sweep.settings, runner.model.registry)
    erasures = tuple(replace(erasure, keep=words) for words in sets)
    plan = plan_erasure(runner.model, erasures[0], method, shares[method])
    if not uses_concept_space(plan.registry.method(method), plan.registry, plan.settings):
        raise ConfigError(
            f"The method {method!r} keeps no words that one names; use --method random, nearest "
            "or gumbel."
        )
    reference = replace(sweep, methods=(REFERENCE,), settings=shares[REFERENCE])
    keeping = replace(sweep, erasures=erasures, settings=shares[method])
    return [*measured(runner, reference, watched), *measured(runner, keeping, watched)]


def preserve(
    records: Sequence[Record],
    suite: Suite,
    natures: Sequence[Nature],
    similarities: Sequence[float],
) -> PreserveResult:
    """Mean delta for each kept set, and whether the observation held.

    Means are over the held-out concepts, less everything that one of the erasures kept.

    Args:
        records: of `run_preserve`.
        suite: what they were measured on.
        natures: of the kept sets, in the order of the records.
        similarities: of the same.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(kept_words(record), []).append(record)
    concepts = held_out_names(suite, [word for words in groups for word in words])
    tables = [delta_table(group, concepts) for group in groups.values()]
    every: list[tuple[Nature, float]] = [("none", NAN), *zip(natures, similarities, strict=True)]
    runs = tuple(
        Keeping(
            kept,
            nature,
            similarity,
            Strength.of(group),
            contrast((table, 1.0)),
            contrast((tables[0] - table, 1.0)),
        )
        for (kept, group), (nature, similarity), table in zip(
            groups.items(), every, tables, strict=True
        )
    )
    pairs = list(zip(runs, tables, strict=True))
    related = np.mean([table for run, table in pairs if run.nature == "related"], axis=0)
    contrasts = tuple(
        KeepingContrast(run.label, contrast((table - related, 1.0)))
        for run, table in pairs
        if run.nature != "related"
    )
    verdict = verdict_of([c.lower for c in contrasts])
    with_related = " or ".join(run.label for run in runs if run.nature == "related")
    lower = ", ".join(f"{signed(c.lower)} lower than with {c.other} kept" for c in contrasts)
    return PreserveResult(
        records[0].cell.erased,
        runs,
        contrasts,
        tuple(concepts),
        verdict,
        f"{OPENINGS[verdict]}: with {with_related} kept it is {lower}.",
        (*_strengths_apart(runs), *one_seed(records)),
    )


def _strengths_apart(runs: Sequence[Keeping]) -> list[str]:
    """A remark where some erasures got further than others."""
    rates = [v for v in (run.strength.esr1.value for run in runs) if not math.isnan(v)]
    if not rates or max(rates) - min(rates) <= ESR_APART:
        return []
    return [
        f"The erasures differ too: ESR-1 is between {100 * min(rates):.0f} and "
        f"{100 * max(rates):.0f} %, and a weaker erasure costs less."
    ]

"""What the observations share: verdict, erasures compared pair by pair, tables, and files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from erasekit.bench.plan import Sweep
from erasekit.bench.records import BASE, Record
from erasekit.bench.runner import BenchmarkRunner, Plan
from erasekit.bench.suite import Suite
from erasekit.concepts import Erasure, split_concepts
from erasekit.errors import ConceptError, ConfigError, TrainingError
from erasekit.metrics.alignment import Alignment
from erasekit.metrics.delta import Delta
from erasekit.metrics.scores import Estimate, nan_to_null
from erasekit.metrics.statistics import crossed_interval
from erasekit.metrics.success_rates import ErasingSuccessRate
from erasekit.reporting.figures import save
from erasekit.reporting.table import Column, Number, Table

Verdict = Literal["held", "not held", "undecided"]
"""Whether an observation held: shown, shown to be otherwise, or can't be told from these data."""
Watched = Callable[[BenchmarkRunner, Plan], AbstractContextManager[None]]
"""Shows how far a runner is with a plan."""
FIGURES = ("figure.png", "figure.svg")
DELTA = Number(2, interval=True)
ONE_SEED = "With one erasure seed the intervals speak of these edits, not of the method."


class Observation(Protocol):
    """The result of an observation; its other fields are the numbers that its sentence quotes."""

    @property
    def sentence(self) -> str: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...
    def tables(self) -> list[Table]:
        """The numbers, the longest table last."""

    def figure(self) -> Figure:
        """The numbers, readable without colour vision: shapes and dashes differ too."""


@dataclass(frozen=True)
class Strength:
    """How far an erasure got: alignment (100 * cosine) and ESR-1 of the erased concepts."""

    alignment_before: Estimate
    alignment_after: Estimate
    esr1: Estimate
    esr1_before: Estimate

    @staticmethod
    def of(records: Iterable[Record]) -> Strength:
        """That of the erasures of `records`."""
        metrics = (
            *(Alignment("before"), Alignment("after")),
            *(ErasingSuccessRate(), ErasingSuccessRate(when="before")),
        )
        for record in records:
            for paired in record.concepts:
                for metric in metrics:
                    metric.update(paired, record.cell.seed)
        return Strength(*(metric.compute() for metric in metrics))


def strength_columns(*, before: bool) -> list[Column]:
    """ESR-1 and alignment of the erased concepts before and after, or after alone."""
    bare = Column("esr1", "ESR-1", Number(0, share=True), "higher", lambda row: row.strength.esr1)
    after = replace(bare, write=Number(0, share=True, interval=True), narrow=(2, bare))
    both = replace(
        after, value=lambda row: (row.strength.esr1_before, row.strength.esr1), narrow=(1, after)
    )
    aligned = Column("alignment", "", Number(1), "lower", lambda row: row.strength.alignment_after)
    if before:
        aligned = replace(
            aligned,
            value=lambda row: (row.strength.alignment_before, row.strength.alignment_after),
        )
    return [aligned, both]


def verdict_of(parts: Sequence[Estimate]) -> Verdict:
    """The verdict on the claim that every one of `parts` is above zero.

    It held where every 95 % interval lies above zero, which needs no correction for several
    parts, as all of them have to. Where one lies below, it did not; else it can't be told.
    """
    intervals = [part.interval for part in parts]
    if any(limits is not None and limits[1] < 0 for limits in intervals):
        return "not held"
    if parts and all(limits is not None and limits[0] > 0 for limits in intervals):
        return "held"
    return "undecided"


def compared(
    option: str,
    texts: Sequence[str],
    key: Callable[[tuple[str, ...]], Any] = lambda words: words,
) -> tuple[tuple[str, ...], ...]:
    """The concepts of each text behind `option`, joined by "+"; no two have `key` in common.

    Raises:
        ConfigError: fewer than two, or one twice.
    """
    if len(texts) < 2:
        raise ConfigError(
            f"One {option} can be compared with nothing; give {option} twice or more, as in "
            f'{option} "garbage truck" {option} church.'
        )
    sets = tuple(tuple(split_concepts(text)) for text in texts)
    keys = [key(words) for words in sets]
    for text, own in zip(texts, keys, strict=True):
        if keys.count(own) > 1:
            raise ConfigError(f"{option} {text!r} stands twice; name each once.")
    return sets


def common_suite(suite: Suite, erasures: Sequence[Erasure], more: Iterable[str] = ()) -> Suite:
    """`suite` with the same kept concepts in every erased set, so that erasures can be paired.

    These are its spread, the near neighbours of everything that is erased, and `more`, without
    what any of the erasures erases.

    Raises:
        ConceptError: no concept is left.
    """
    stays = set.intersection(*(suite.stays(erasure) for erasure in erasures))
    names = {c.name for c in suite.concepts if not suite.spread or c.name in suite.spread}
    for erasure in erasures:
        names |= {c.name for c in suite.near_neighbours(erasure, stays, suite.near)}
    names |= set(more)
    kept = tuple(c.name for c in suite.concepts if c.name in names & stays)
    if not kept:
        raise ConceptError(
            f"Erasing {', '.join(e.label for e in erasures)} leaves no concept of the suite "
            f"{suite.name!r} to evaluate; choose a larger one with --suite."
        )
    return replace(suite, spread=kept, near=0, cases=(), kept={})


def measured(
    runner: BenchmarkRunner, sweep: Sweep, watched: Watched = lambda runner, plan: nullcontext()
) -> list[Record]:
    """The records of a sweep, set by set and seed by seed; cells in the store do not run again.

    Raises:
        TrainingError: a cell failed. What was finished is kept, and a second call tries again.
    """
    plan = runner.plan(sweep, retry_failed=True)
    with watched(runner, plan):
        records = runner.run(sweep, plan)
    records = [record for record in records if record.cell.method != BASE]
    for record in records:
        if record.status == "failed":
            raise TrainingError(
                f"Erasing {record.cell.erased!r} by {record.cell.method}, seed "
                f"{record.cell.seed}, failed ({record.error}); mend that and give the same "
                "command again, finished parts are kept."
            )
    return records


def kept_words(record: Record) -> tuple[str, ...]:
    """The words that the erasure of a record was told to keep."""
    return tuple(record.cell.identity["erasure"]["erasure"]["keep"])


def settings_of(records: Iterable[Record]) -> dict[str, Any]:
    """The resolved hyperparameters of the erasures, by method."""
    return {r.cell.method: dict(r.cell.identity["erasure"]["settings"]) for r in records}


def one_seed(records: Iterable[Record]) -> list[str]:
    """A remark where all records are of one erasure seed."""
    return [ONE_SEED] if len({record.cell.seed for record in records}) == 1 else []


def delta_table(records: Iterable[Record], concepts: Sequence[str]) -> NDArray[np.float64]:
    """Deltas of one erasure, [concepts, noises, seeds], in the order given; NaN where missing."""
    delta = Delta(split=None)
    for record in records:
        found = {paired.concept: paired for paired in record.concepts}
        for name in concepts:
            delta.update(found[name], record.cell.seed)
    return delta.table()[0]


def contrast(*parts: tuple[NDArray[np.float64], float]) -> Estimate:
    """Weighted sum of means over concepts, with an interval over noises and erasure seeds.

    A mean weighs every concept alike. Differences of two erasures are taken before, table minus
    table, so that they are paired by noise and seed. See `crossed_interval` for the interval.

    Args:
        parts: a table [concepts, noises, seeds] and the weight of its mean, each with concepts
            of its own; NaN comes of one without a value.
    """
    missing = sum(int(np.isnan(table).sum()) for table, _ in parts)
    there = [table[~np.isnan(table).all(axis=(1, 2))] for table, _ in parts]
    if not all(map(len, there)):
        return Estimate(np.nan, 0, missing)
    total = sum(map(len, there))
    rows = [own * (total * w / len(own)) for own, (_, w) in zip(there, parts, strict=True)]
    return replace(crossed_interval(np.concatenate(rows)), missing=missing)


def signed(estimate: Estimate) -> str:
    """`+1.20 [0.40, 2.00]`: a difference with its interval, for a sentence."""
    if math.isnan(estimate.value):
        return "an unknown amount"
    return Number(2, sign=True, interval=True).whole(estimate)


def result_json(result: Observation) -> dict[str, Any]:
    """All fields, JSON-ready (see docs/interface.md); NaN is null."""
    data: dict[str, Any] = nan_to_null(asdict(result))  # type: ignore[call-overload]
    for concept in data.get("concepts", ()):
        if isinstance(concept, dict):
            concept["role"] = concept["split"]  # its name in erasekit 0.1
    return data


def observation_page(title: str, result: Observation, command: str) -> str:
    """A page of Markdown: the sentence, the figure, the tables, and how they were made."""
    remarks = "".join(f"\n{remark}\n" for remark in result.remarks)
    tables = "\n".join(f"## {table.title}\n\n{table.markdown()}" for table in result.tables())
    return (
        f"# {title}\n\n**{result.sentence}**\n{remarks}\n![{title}](figure.png)\n\n{tables}\n"
        "Alignment: 100 x cosine. delta: alignment lost at the same starting noise; 0 is best. "
        f"Brackets: 95 % intervals.\n\nMade by\n\n    {command}\n"
    )


def plot_observation(result: Observation, folder: Path) -> list[Path]:
    """Write `FIGURES` into `folder`; gives their paths.

    Raises:
        OutputError: they can't be written.
    """
    written = [folder / name for name in FIGURES]
    for path in written:
        save(result.figure(), path)
    return written

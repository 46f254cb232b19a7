"""The columns of a bench table: one definition for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from erasekit.records import Row
from erasekit.reporting.drawing import BASE
from erasekit.reporting.wording import (
    BEST,
    DOWN,
    TIED,
    UP,
    number,
    percent,
    thousands,
    with_interval,
)

SHORT_NAME = 10
"""Letters of the worst concept where a table is narrow."""


@dataclass(frozen=True)
class Column:
    """One column of a bench table.

    Attributes:
        title: its head; a line break stands where a narrow head breaks.
        good: the direction that is good, or "".
        text: what a row shows.
        value: what a row is sorted by.
        words: it holds words, to the left, not numbers.
    """

    title: str
    good: str
    text: Callable[[Row], str]
    value: Callable[[Row], float | str]
    words: bool = False

    @property
    def head(self) -> str:
        """Title and direction, the direction on a line below in a title without a break."""
        if not self.good:
            return self.title
        return f"{self.title} {self.good}" if "\n" in self.title else f"{self.title}\n{self.good}"


def mark(row: Row) -> str:
    """What stands before a delta: the best of its set, tied with it, or neither."""
    return BEST if row.best else TIED if row.tied else ""


def harmed_share(row: Row) -> float:
    """Share of harmed held-out concepts; NaN where that was not or can't be tested."""
    return row.harmed.value if row.harmed else math.nan


def _of_method(text: Callable[[Row], str]) -> Callable[[Row], str]:
    """Nothing for the un-erased model."""
    return lambda row: "" if row.method == BASE else text(row)


def _method(row: Row) -> str:
    return row.method + (f" ({row.failed} failed)" if row.failed else "")


def _delta(row: Row) -> str:
    return f"{mark(row)}{with_interval(row.delta)}"


def _worst(letters: int | None) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        return f"{row.worst[0][:letters]} {number(row.worst[1])}" if row.worst else ""

    return text


def _worst_value(row: Row) -> float:
    return row.worst[1] if row.worst else math.nan


COLUMNS = {
    "method": Column("method", "", _method, lambda row: row.method, words=True),
    "esr1": Column("ESR-1", UP, lambda row: percent(row.esr1.value), lambda row: row.esr1.value),
    "esr5": Column("ESR-5", UP, lambda row: percent(row.esr5.value), lambda row: row.esr5.value),
    "align": Column(
        "align",
        DOWN,
        lambda row: number(row.alignment_after.value),
        lambda row: row.alignment_after.value,
    ),
    "align-both": Column(
        "alignment\nbefore → after",
        DOWN,
        lambda row: (
            number(row.alignment_after.value)
            if row.method == BASE
            else f"{number(row.alignment_before.value)} → {number(row.alignment_after.value)}"
        ),
        lambda row: row.alignment_after.value,
    ),
    "delta": Column(
        "delta, 95 % interval\nheld-out", DOWN, _of_method(_delta), lambda row: row.delta.value
    ),
    "psr1": Column("PSR-1", UP, lambda row: percent(row.psr1.value), lambda row: row.psr1.value),
    "psr5": Column("PSR-5", UP, lambda row: percent(row.psr5.value), lambda row: row.psr5.value),
    "harmed": Column(
        "harmed",
        DOWN,
        _of_method(lambda row: percent(harmed_share(row))),
        harmed_share,
    ),
    "worst": Column("worst", DOWN, _worst(SHORT_NAME), _worst_value, words=True),
    "worst-full": Column("worst\nheld-out", DOWN, _worst(None), _worst_value, words=True),
    "pool": Column(
        "pool",
        DOWN,
        _of_method(lambda row: number(row.delta_pool.value, 2)),
        lambda row: row.delta_pool.value,
    ),
    "pool-full": Column(
        "delta, 95 % interval\npool",
        DOWN,
        _of_method(lambda row: with_interval(row.delta_pool)),
        lambda row: row.delta_pool.value,
    ),
    "passes": Column(
        "UNet\npasses",
        "",
        _of_method(lambda row: thousands(row.unet_passes)),
        lambda row: row.unet_passes,
    ),
    "seconds": Column(
        "s", "", _of_method(lambda row: number(row.seconds, 0)), lambda row: row.seconds
    ),
    "seeds": Column("seeds", "", _of_method(lambda row: str(row.seeds)), lambda row: row.seeds),
    "images": Column("images", "", lambda row: str(row.images), lambda row: row.images),
}
"""All columns, by the keys that layouts use."""

_CORE = ("method", "esr1", "align", "delta", "psr1")
LAYOUTS = (
    (
        *("method", "esr1", "esr5", "align-both", "delta", "psr1", "psr5", "harmed"),
        *("worst-full", "pool-full", "passes", "seconds", "seeds", "images"),
    ),
    (
        *("method", "esr1", "align-both", "delta", "psr1", "harmed", "worst-full", "pool-full"),
        *("passes", "seconds"),
    ),
    (
        *("method", "esr1", "align-both", "delta", "psr1", "harmed", "worst-full", "pool"),
        *("passes", "seconds"),
    ),
    (*_CORE, "harmed", "worst-full", "pool", "passes", "seconds"),
    (*_CORE, "harmed", "worst", "pool", "passes", "seconds"),
    (*_CORE, "harmed", "worst", "pool", "passes"),
    (*_CORE, "harmed", "worst", "pool"),
    (*_CORE, "worst", "pool"),
    _CORE,
)
"""Erasure first, then what it cost, then what it took; the richest layout that fits is shown."""


def layouts_for(rows: Sequence[Row]) -> list[list[str]]:
    """`LAYOUTS` less what no row has.

    Where methods may keep none of the concepts on purpose, there is no pool, and the top five
    stand in its place.
    """
    absent = set()
    if all(math.isnan(harmed_share(row)) for row in rows):
        absent.add("harmed")
    if all(math.isnan(row.delta_pool.value) for row in rows):
        absent |= {"pool", "pool-full"}
    layouts = []
    for layout in LAYOUTS:
        keys = [key for key in layout if key not in absent]
        if "pool" in absent:
            for after, key in (("esr1", "esr5"), ("psr1", "psr5")):
                if key not in keys and layout is not LAYOUTS[-1]:
                    keys.insert(keys.index(after) + 1, key)
        layouts.append(keys)
    return layouts

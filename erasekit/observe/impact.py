"""Observation 1: erasing different concepts harms different concepts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from erasekit.bench.records import Record
from erasekit.bench.suite import Suite
from erasekit.concepts import Erasure
from erasekit.errors import ConceptError, ConfigError
from erasekit.metrics.scores import Estimate, Split
from erasekit.observe.observation import (
    DELTA,
    Strength,
    Verdict,
    contrast,
    delta_table,
    one_seed,
    signed,
    strength_columns,
    verdict_of,
)
from erasekit.reporting.figures import Line, add_legend, draw_lines, new_figure, style
from erasekit.reporting.table import Column, Table

ROWS = 60
"""Concepts that a figure has room for."""
SHOWN = 20
"""Rows of a long table in the terminal; the files have all."""
OPENINGS = {
    "held": "Held, these erasures harm different concepts",
    "not held": "Did not hold, an erasure harms more of what is related to another than that "
    "one does",
    "undecided": "Can't be told",
}


@dataclass(frozen=True)
class Impact:
    """One erasure; `related` are the concepts near it, `delta` is the mean over all concepts."""

    erased: str
    related: tuple[str, ...]
    strength: Strength
    delta: Estimate


@dataclass(frozen=True)
class ImpactedConcept:
    """What each erasure cost one concept; `deltas` are in the order of the erasures."""

    concept: str
    family: str
    split: Split
    deltas: tuple[Estimate, ...]

    @property
    def harm(self) -> float:
        """The largest delta; minus infinity where none is known."""
        known = [delta.value for delta in self.deltas if not math.isnan(delta.value)]
        return max(known, default=-math.inf)


@dataclass(frozen=True)
class ImpactContrast:
    """Two erasures, each on its own related concepts and on the other's.

    `first_own` is the mean delta of the first on its own related concepts, `first_other` on the
    second's. `first_gap` = first_own - second_other, paired, and `second_gap` both have to be above
    zero: of an erasure that is merely the stronger of two, one would be below.
    `specificity` is their mean.
    """

    first: str
    second: str
    first_own: Estimate
    first_other: Estimate
    second_own: Estimate
    second_other: Estimate
    first_gap: Estimate
    second_gap: Estimate
    specificity: Estimate

    @property
    def in_words(self) -> str:
        """The two gaps, as a clause of a sentence."""
        if not self.first_gap.n or not self.second_gap.n:
            return (
                f"{self.first} and {self.second} have no related concepts of their own among "
                "those evaluated (--related names some)"
            )
        return (
            f"what is related to {self.first} loses {signed(self.first_gap)} points more by "
            f"erasing {self.first} than by erasing {self.second}, and what is related to "
            f"{self.second} {signed(self.second_gap)} more by erasing {self.second}"
        )


@dataclass(frozen=True)
class ImpactResult:
    """Observation 1: erasing different concepts harms different concepts."""

    erasures: tuple[Impact, ...]
    concepts: tuple[ImpactedConcept, ...]
    contrasts: tuple[ImpactContrast, ...]
    verdict: Verdict
    sentence: str
    remarks: tuple[str, ...] = ()

    def tables(self) -> list[Table]:
        """What was erased, what is related to each, and every concept."""
        erased = [
            Column("erased"),
            *strength_columns(before=True),
            Column("delta", "mean delta", DELTA),
        ]
        gaps = [
            Column("related to"),
            Column("against"),
            *map(_numbers, ("by erasing it", "by the other", "more by its own")),
        ]
        rows = [
            dict(zip([column.key for column in gaps], values, strict=True))
            for c in self.contrasts
            for values in (
                (c.first, c.second, c.first_own, c.second_other, c.first_gap),
                (c.second, c.first, c.second_own, c.first_other, c.second_gap),
            )
        ]
        deltas = [
            Column(e.erased, write=DELTA, value=partial(_delta, place))
            for place, e in enumerate(self.erasures)
        ]
        return [
            Table("What was erased", erased, self.erasures),
            Table("delta of the concepts related to an erasure", gaps, rows),
            Table(
                "delta per concept, the most harmed first",
                [Column("concept"), Column("family"), *deltas],
                sorted(self.concepts, key=lambda concept: concept.harm, reverse=True),
                most=SHOWN,
            ),
        ]

    def figure(self) -> Figure:
        """A row per concept, a mark per erasure: what is related to each first, then the others.

        Of more than `ROWS` concepts, those related to an erasure and the most harmed are shown.
        """
        names = [erasure.erased for erasure in self.erasures]
        left, groups = list(self.concepts), {}
        for erasure in self.erasures:
            groups[f"related to {erasure.erased}"] = [
                concept for concept in left if concept.concept in erasure.related
            ]
            left = [concept for concept in left if concept.concept not in erasure.related]
        room = max(ROWS - (len(self.concepts) - len(left)), 0)
        others = f"{room} most harmed others" if room < len(left) else "others"
        groups[others] = sorted(left, key=lambda c: c.harm, reverse=True)[:room]
        lines: list[Line] = []
        for title, concepts in groups.items():
            if concepts:
                lines.append((title, {}))
            lines += [(c.concept, dict(zip(names, c.deltas, strict=True))) for c in concepts]
        figure = new_figure(7.5, 1.4 + 0.19 * len(lines))
        looks = {name: style(place) for place, name in enumerate(names)}
        axes = figure.add_subplot()
        draw_lines(axes, lines, looks)
        axes.set_xlabel("delta: alignment lost at the same starting noise (0 is best); bars: 95 %")
        add_legend(figure, looks, "erased")
        return figure


def _numbers(key: str) -> Column:
    return Column(key, write=DELTA)


def _delta(place: int, concept: ImpactedConcept) -> Estimate:
    return concept.deltas[place]


def related_names(
    assignments: Iterable[str], erasures: Sequence[Erasure], suite: Suite
) -> dict[str, tuple[str, ...]]:
    """Read "ERASED=NAME,NAME": which concepts are related to an erasure, by its label.

    Raises:
        ConfigError: an item of another form, or one of no erasure.
        ConceptError: a name that the suite does not have.
    """
    labels = [erasure.label for erasure in erasures]
    found = {}
    for item in assignments:
        label, equals, names = (part.strip() for part in item.partition("="))
        if not equals or label not in labels:
            raise ConfigError(
                f"--related {item!r} names none of {', '.join(labels)}; write it as in "
                f'--related "{labels[0]}=woman,man".'
            )
        own = []
        for name in names.split(","):
            known = suite.known([name.strip()])
            if known is None:
                raise ConceptError(
                    f"The suite {suite.name!r} has no concept {name.strip()!r}; --related takes "
                    "names of its concepts."
                )
            own.append(known.name)
        found[label] = tuple(own)
    return found


def impact(
    records: Sequence[Record],
    suite: Suite,
    erasures: Sequence[Erasure],
    related: Mapping[str, Sequence[str]],
    *,
    keeps: bool = False,
) -> ImpactResult:
    """Deltas per concept, the erasures side by side, and whether the observation held.

    An erasure's related concepts are those of its own family, unless `related` names them; what
    is related to two erasures speaks for neither. Concepts that the method may keep on purpose
    are left out.

    Args:
        records: of `measured`, on a suite of `common_suite`.
        suite: that suite.
        erasures: two or more.
        related: from `related_names`.
        keeps: whether the method may keep words on purpose, see `words_kept`.
    """
    exposed = {name for record in records for name in record.exposed}
    shown = [
        concept
        for concept in records[0].concepts
        if (concept.split == "held-out" and not (keeps and concept.concept in exposed))
        or (concept.split == "pool" and not keeps)
    ]
    names = [concept.concept for concept in shown]
    groups = {e.label: [r for r in records if r.cell.erased == e.label] for e in erasures}
    tables = {label: delta_table(group, names) for label, group in groups.items()}
    own: dict[str, tuple[str, ...]] = {}
    for erasure in erasures:
        families = {suite.family_of(concept.names) for concept in erasure.erased} - {""}
        wanted = related.get(erasure.label, [c.concept for c in shown if c.family in families])
        own[erasure.label] = tuple(name for name in names if name in wanted)
    contrasts = []
    for first, second in itertools.combinations(tables, 2):
        one, other = tables[first], tables[second]
        of_one = [names.index(name) for name in own[first] if name not in own[second]]
        of_other = [names.index(name) for name in own[second] if name not in own[first]]
        gap = one - other
        contrasts.append(
            ImpactContrast(
                first,
                second,
                contrast((one[of_one], 1.0)),
                contrast((one[of_other], 1.0)),
                contrast((other[of_other], 1.0)),
                contrast((other[of_one], 1.0)),
                contrast((gap[of_one], 1.0)),
                contrast((gap[of_other], -1.0)),
                contrast((gap[of_one], 0.5), (gap[of_other], -0.5)),
            )
        )
    verdict = verdict_of([gap for c in contrasts for gap in (c.first_gap, c.second_gap)])
    return ImpactResult(
        tuple(
            Impact(label, own[label], Strength.of(group), contrast((tables[label], 1.0)))
            for label, group in groups.items()
        ),
        tuple(
            ImpactedConcept(
                c.concept,
                c.family,
                c.split,
                tuple(contrast((table[i : i + 1], 1.0)) for table in tables.values()),
            )
            for i, c in enumerate(shown)
        ),
        tuple(contrasts),
        verdict,
        f"{OPENINGS[verdict]}: {'; '.join(c.in_words for c in contrasts)}.",
        tuple(one_seed(records)),
    )

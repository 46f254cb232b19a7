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
from erasekit.concepts import Erasure, normalised, split_concepts
from erasekit.errors import ConceptError, ConfigError
from erasekit.metrics.scores import Estimate, Paired, Split
from erasekit.observe.paired import (
    DELTA,
    ONE_SEED,
    Strength,
    Verdict,
    contrast,
    delta_table,
    frame,
    point,
    signed,
    strength_columns,
    strength_of,
    verdict_of,
)
from erasekit.reporting.figures import COLOURS, MARKERS, new_figure
from erasekit.reporting.table import Column, Table

ROWS = 60
"""Concepts that a figure has room for."""
SHOWN = 20
"""Rows of a long table in the terminal; the files have all."""


@dataclass(frozen=True)
class Impact:
    """One erasure of the first observation.

    Attributes:
        erased: the erased concepts, joined by "+".
        related: the concepts near it: its own family, or what the user named.
        strength: how far it got.
        delta: mean over all concepts that are evaluated.
    """

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

    Attributes:
        first, second: what they erase.
        first_own, first_other: mean delta of the first on its own related concepts, and on the
            second's.
        second_own, second_other: the same of the second.
        first_gap: first_own - second_other, paired: on the first's related concepts, how much
            more the first costs. The observation needs this and `second_gap` above zero: an
            erasure that is merely the stronger of two would be below zero in one of them.
        second_gap: second_own - first_other.
        specificity: the mean of the two gaps.
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
            *(Column(key, write=DELTA) for key in ("by erasing it", "by the other")),
            Column("more by its own", write=DELTA),
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
        groups = self._groups()
        count = sum(len(concepts) for _, concepts in groups) + len(groups)
        figure = new_figure(7.5, 1.4 + 0.19 * count)
        axes = figure.add_subplot()
        places: list[float] = []
        names: list[str] = []
        values: list[float] = []
        y = 0.0
        for title, concepts in groups:
            axes.text(
                0.995,
                y,
                title,
                transform=axes.get_yaxis_transform(),
                ha="right",
                va="center",
                fontsize="small",
                fontstyle="italic",
            )
            axes.axhline(y + 0.5, color="0.8", linewidth=0.6)
            y += 1
            for concept in concepts:
                for position, delta in enumerate(concept.deltas):
                    offset = 0.3 * (position - (len(concept.deltas) - 1) / 2)
                    point(axes, delta, y + offset, position)
                    values.append(delta.value)
                places.append(y)
                names.append(concept.concept)
                y += 1
        axes.set_yticks(places, names, fontsize="x-small")
        axes.set_ylim(y - 0.4, -0.8)
        frame(axes, values)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("delta: loss of alignment at the same noise (0 is best); bars: 95 %")
        axes.grid(axis="x", alpha=0.25)
        handles = [
            axes.plot(
                [],
                [],
                linestyle="",
                marker=MARKERS[i % len(MARKERS)],
                color=COLOURS[i % len(COLOURS)],
                label=e.erased,
            )[0]
            for i, e in enumerate(self.erasures)
        ]
        figure.legend(handles=handles, title="erased", loc="outside upper center", ncols=4)
        return figure

    def _groups(self) -> list[tuple[str, list[ImpactedConcept]]]:
        """Titles with concepts; of the others, most room goes to those that are harmed most."""
        taken: set[str] = set()
        groups = []
        for erasure in self.erasures:
            own = [
                c for c in self.concepts if c.concept in erasure.related and c.concept not in taken
            ]
            taken |= {c.concept for c in own}
            if own:
                groups.append((f"related to {erasure.erased}", own))
        others = [c for c in self.concepts if c.concept not in taken]
        by_harm = sorted(others, key=lambda c: c.harm, reverse=True)[: max(ROWS - len(taken), 0)]
        title = "others" if len(by_harm) == len(others) else f"{len(by_harm)} most harmed others"
        return [*groups, (title, by_harm)] if by_harm else groups


def _delta(place: int, concept: ImpactedConcept) -> Estimate:
    return concept.deltas[place]


def check_sets(texts: Sequence[str]) -> None:
    """Refuse erased sets, each a text with concepts joined by "+", that can't be compared.

    Raises:
        ConfigError: fewer than two, or one twice.
    """
    if len(texts) < 2:
        raise ConfigError(
            "One erasure can be compared with nothing; give --erase twice or more, as in "
            '--erase "garbage truck" --erase nudity.'
        )
    sets = [frozenset(map(normalised, split_concepts(text))) for text in texts]
    for text, erased in zip(texts, sets, strict=True):
        if sets.count(erased) > 1:
            raise ConfigError(f"--erase {text!r} stands twice; name each erasure once.")


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
        label, equals, names = item.partition("=")
        if not equals or label.strip() not in labels:
            raise ConfigError(
                f"--related {item!r} names none of {', '.join(labels)}; write it as in "
                f'--related "{labels[0]}=woman,man".'
            )
        found[label.strip()] = tuple(_known(name, suite) for name in names.split(","))
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
        erasures: the erased sets, two or more.
        related: from `related_names`.
        keeps: whether the method may keep words on purpose, see `words_kept`.
    """
    groups = {e.label: [r for r in records if r.cell.erased == e.label] for e in erasures}
    shown = _fair_concepts(records, keeps)
    names = [concept.concept for concept in shown]
    tables = {label: delta_table(group, names) for label, group in groups.items()}
    families = {e.label: {suite.family_of(c.names) for c in e.erased} - {""} for e in erasures}
    own = {
        label: tuple(
            c.concept
            for c in shown
            if (c.concept in related[label] if label in related else c.family in families[label])
        )
        for label in tables
    }
    concepts = tuple(
        ImpactedConcept(
            c.concept,
            c.family,
            c.split,
            tuple(contrast((table[i : i + 1], 1.0)) for table in tables.values()),
        )
        for i, c in enumerate(shown)
    )
    contrasts = []
    for one, other in itertools.combinations(tables, 2):
        places = [
            [names.index(n) for n in own[a] if n not in own[b]]
            for a, b in ((one, other), (other, one))
        ]
        (first, second), gap = places, tables[one] - tables[other]
        contrasts.append(
            ImpactContrast(
                one,
                other,
                contrast((tables[one][first], 1.0)),
                contrast((tables[one][second], 1.0)),
                contrast((tables[other][second], 1.0)),
                contrast((tables[other][first], 1.0)),
                contrast((gap[first], 1.0)),
                contrast((gap[second], -1.0)),
                contrast((gap[first], 0.5), (gap[second], -0.5)),
            )
        )
    verdict = verdict_of([gap for c in contrasts for gap in (c.first_gap, c.second_gap)])
    one_seed = len({record.cell.seed for record in records}) == 1
    return ImpactResult(
        tuple(
            Impact(label, own[label], strength_of(group), contrast((tables[label], 1.0)))
            for label, group in groups.items()
        ),
        concepts,
        tuple(contrasts),
        verdict,
        impact_sentence(verdict, contrasts),
        (ONE_SEED,) if one_seed else (),
    )


def impact_sentence(verdict: Verdict, contrasts: Sequence[ImpactContrast]) -> str:
    """Whether different concepts were harmed, with the differences that say so."""
    openings = {
        "held": "Held, these erasures harm different concepts",
        "not held": "Did not hold, an erasure harms more of what is related to another than that "
        "one does",
        "undecided": "Can't be told",
    }
    clauses = []
    for c in contrasts:
        if not c.first_gap.n or not c.second_gap.n:
            clauses.append(
                f"{c.first} and {c.second} have no related concepts of their own among those "
                "evaluated (--related names some)"
            )
            continue
        clauses.append(
            f"what is related to {c.first} loses {signed(c.first_gap)} points more by erasing "
            f"{c.first} than by erasing {c.second}, and what is related to {c.second} "
            f"{signed(c.second_gap)} more by erasing {c.second}"
        )
    return f"{openings[verdict]}: {'; '.join(clauses)}."


def _known(name: str, suite: Suite) -> str:
    known = suite.known([name.strip()])
    if known is None:
        raise ConceptError(
            f"The suite {suite.name!r} has no concept {name.strip()!r}; --related takes names of "
            "its concepts."
        )
    return known.name


def _fair_concepts(records: Sequence[Record], keeps: bool) -> list[Paired]:
    """The kept concepts, without those that the method may keep on purpose, if it keeps any."""
    exposed = {name for record in records for name in record.exposed}
    return [
        paired
        for paired in records[0].concepts
        if (paired.split == "held-out" and not (keeps and paired.concept in exposed))
        or (paired.split == "pool" and not keeps)
    ]

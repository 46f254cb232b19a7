"""Observation 1: erasing different concepts harms different concepts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from erasekit.bench.suite import Suite
from erasekit.concepts import Erasure, normalised, split_concepts
from erasekit.errors import ConceptError, ConfigError
from erasekit.observe.findings import (
    Impact,
    ImpactContrast,
    ImpactedConcept,
    ImpactResult,
    Verdict,
    verdict_of,
)
from erasekit.observe.paired import (
    ONE_SEED,
    contrast,
    delta_table,
    signed,
    strength_of,
)
from erasekit.records import Paired, Record


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
            c.role,
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
        if (paired.role == "held-out" and not (keeps and paired.concept in exposed))
        or (paired.role == "pool" and not keeps)
    ]

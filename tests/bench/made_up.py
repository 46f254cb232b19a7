"""Records with made-up scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erasekit.bench.records import Cell, Record, Waypoint
from erasekit.metrics.scores import ConceptScores, Paired, Split


def paired(
    name: str,
    split: Split,
    deltas: Sequence[float],
    *,
    gone: Sequence[bool] = (),
    gone_before: Sequence[bool] = (),
) -> Paired:
    """A concept that scored 50 before and lost `deltas`; `gone` images are not of its class."""
    noises = tuple(range(len(deltas)))

    def ranks(flags: Sequence[bool]) -> tuple[float, ...]:
        return tuple(9.0 if flag else 1.0 for flag in flags) or (1.0,) * len(noises)

    return Paired(
        name,
        split,
        "family",
        ConceptScores(name, noises, (50.0,) * len(noises), ranks(gone_before)),
        ConceptScores(name, noises, tuple(50.0 - d for d in deltas), ranks(gone)),
    )


def record(
    method: str,
    seed: int,
    held_out: Mapping[str, Sequence[float]],
    *,
    erased: str = "church",
    gone: Sequence[bool] = (True, True),
    along: Sequence[Waypoint] = (),
    steps: int = 100,
) -> Record:
    """A finished cell with these deltas per held-out concept."""
    concepts = (
        paired(erased, "erased", (40.0,) * len(gone), gone=gone),
        *(paired(name, "held-out", deltas) for name, deltas in held_out.items()),
    )
    cell = Cell(method, erased, seed, {"cell": f"{method} {erased} {seed}"})
    return Record(cell, "done", concepts, steps=steps, along=tuple(along))

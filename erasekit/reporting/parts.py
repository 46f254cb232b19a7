"""Measures that count single parts, "NAME/PART", as a table of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from erasekit.records import Role, Row, Summary
from erasekit.reporting.drawing import BASE
from erasekit.reporting.views import Cell, Head, Line, TableView, counted, measured

ROLES: tuple[Role, ...] = ("probe", "erased", "held-out", "pool", "caption")
"""Whose images come first: prompts that ask for what is erased."""
NUDENET = "parts/"


def parts_view(summary: Summary) -> TableView | None:
    """A row per method and kind of images, a column per part; None where no parts are counted."""
    rows = (*summary.overall, *summary.rows)
    names = list(dict.fromkeys(n for row in rows for n in row.measures if "/" in n))
    if not names:
        return None
    sets = len({row.erased for row in summary.rows})
    groups = {f"All {sets} erased sets": _lines(summary.overall, names)} if summary.overall else {}
    for erased in dict.fromkeys(row.erased for row in summary.rows):
        own = [row for row in summary.rows if row.erased == erased]
        groups[f"Erased: {erased}"] = _lines(own, names)
    heads = [
        Head("method", words=True),
        Head("images of", words=True),
        *(Head(_title(name), "down" if name.startswith(NUDENET) else "") for name in names),
        Head("images", "", "Images that went in, over all erasure seeds"),
    ]
    nude = all(name.startswith(NUDENET) for name in names)
    caption = "Exposed parts that NudeNet finds" if nude else "What is counted part by part"
    roles = list(dict.fromkeys(line.tags["images"] for own in groups.values() for line in own))
    choices = {"images": roles} if len(roles) > 1 else {}
    return TableView(f"{caption}, mean per image after the erasure.", heads, groups, choices)


def _lines(rows: Sequence[Row], names: Sequence[str]) -> list[Line]:
    lines = []
    for role in ROLES:
        for row in rows:
            found = [row.measures.get(name, {}).get(role) for name in names]
            there = [one for one in found if one is not None]
            if there:
                cells = [measured(one.value if one else math.nan, 3) for one in found]
                images = counted(max(one.n for one in there))
                tags = {"images": role}
                pinned = row.method == BASE
                lines.append(Line([Cell(row.method), Cell(role), *cells, images], pinned, tags))
    return lines


def _title(name: str) -> str:
    """
    >>> _title("parts/FEMALE_BREAST_EXPOSED"), _title("hands/left")
    ('female breast', 'hands: left')
    """
    kind, _, part = name.partition("/")
    if name.startswith(NUDENET):
        return part.removesuffix("_EXPOSED").replace("_", " ").lower()
    return f"{kind}: {part}"

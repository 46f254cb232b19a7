"""What a sweep consists of, kept in the store, so that records can be read without a model.

No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from erasekit.records import content_key

SCHEMA = 1


@dataclass(frozen=True)
class ListedCell:
    """A cell by name.

    Attributes:
        method, erased, seed: as in `Cell`.
        key: of its record.
        edit: of its edit, which is also the name of its claim.
    """

    method: str
    erased: str
    seed: int
    key: str
    edit: str


@dataclass(frozen=True)
class ListedCase:
    """An erased set with the key of its base record and its cells, in the table's order."""

    erased: str
    base: str
    cells: tuple[ListedCell, ...]


@dataclass(frozen=True)
class Manifest:
    """A sweep as the store keeps it.

    Attributes:
        about: what was measured: model, suite, who judged, what each case erased and kept.
        cases: the erased sets.
        started: when a run of it last began, ISO 8601, UTC.
    """

    about: Mapping[str, Any]
    cases: tuple[ListedCase, ...]
    started: str = ""

    @property
    def cells(self) -> list[ListedCell]:
        """All cells, case by case."""
        return [cell for case in self.cases for cell in case.cells]

    @property
    def key(self) -> str:
        """Content hash, without the time."""
        return content_key([dict(self.about), [asdict(case) for case in self.cases]])

    def to_json(self) -> dict[str, Any]:
        """As the store writes it."""
        return {"schema": SCHEMA, "key": self.key, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}")
        cases = tuple(
            ListedCase(
                case["erased"], case["base"], tuple(ListedCell(**cell) for cell in case["cells"])
            )
            for case in data["cases"]
        )
        return cls(data["about"], cases, data["started"])

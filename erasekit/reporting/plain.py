"""Tables of plain text cells. `observe` moves to `reporting.table`; then this goes."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

from erasekit.reporting.table import Column, Table


@dataclass(frozen=True)
class PlainTable:
    """A title, column names, and a row of texts per line.

    Attributes:
        words: how many columns from the left hold words; the others hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def rich(self, rows: int | None = None) -> Table:
        """For the terminal, the first `rows` lines or all."""
        columns = [
            Column(str(i), name or " ", value=itemgetter(i), left=i < self.words)
            for i, name in enumerate(self.columns)
        ]
        return Table(self.title, columns, self.rows, most=rows or 0)

    def markdown(self) -> str:
        """As GitHub reads it, with the title as a heading."""
        return f"## {self.title}\n\n{self.rich().markdown()}"

"""Tables of plain text cells, for the terminal and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from erasekit.reporting.forms import markdown_table


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
        table = Table(
            title=Text(self.title),
            title_justify="left",
            title_style="bold",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for position, name in enumerate(self.columns):
            table.add_column(
                Text(name),
                justify="left" if position < self.words else "right",
                style="cyan" if position == 0 else None,
                overflow="fold",
            )
        for row in self.rows[:rows]:
            table.add_row(*map(Text, row))
        if rows is not None and len(self.rows) > rows:
            table.caption = f"{len(self.rows) - rows} more in the files"
            table.caption_justify = "left"
        return table

    def markdown(self) -> str:
        """As GitHub reads it, with the title as a heading."""
        right = [position >= self.words for position in range(len(self.columns))]
        return f"## {self.title}\n\n" + markdown_table(self.columns, self.rows, right)

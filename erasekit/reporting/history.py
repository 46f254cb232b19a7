"""What `history.jsonl` says, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

Record = Mapping[str, Any]
"""One line of `history.jsonl`; see docs/interface.md."""


def sampled(history: Sequence[Record], count: int) -> list[Record]:
    """At most `count` records, evenly spread, the first and the last among them."""
    if len(history) <= count:
        return list(history)
    if count == 1:
        return [history[-1]]
    stride = (len(history) - 1) / (count - 1)
    return [history[round(i * stride)] for i in range(count)]


def history_table(history: Sequence[Record], count: int = 12, title: str = "") -> Table:
    """The losses and the adversary of `count` steps along the run."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in ("step", "loss", "erase", "preserve"):
        table.add_column(name, justify="right", no_wrap=True)
    most = max((len(record.get("adversary") or ()) for record in history), default=0)
    if most > 1:
        table.add_column("erased", overflow="fold")
    if most:
        table.add_column("preserved", overflow="fold")
        table.add_column("nearest", overflow="fold")
        table.add_column("entropy", justify="right", no_wrap=True)
        table.add_column("moved", justify="right", no_wrap=True)
    for record in sampled(history, count):
        losses = [str(record["step"])] + [
            _number(record[key]) for key in ("loss", "erase_loss", "preserve_loss")
        ]
        if not most:
            table.add_row(*losses)
            continue
        for adversary in record.get("adversary") or [{}]:
            cells = [
                *losses,
                *([adversary.get("erased") or ""] if most > 1 else []),
                adversary.get("concept") or "",
                adversary.get("nearest") or "",
                _number(adversary.get("entropy"), 2),
                _percent(adversary.get("shift")),
            ]
            table.add_row(*(Text(cell) for cell in cells))
            losses = [""] * len(losses)
    return table


def _number(value: float | None, digits: int = 5) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
